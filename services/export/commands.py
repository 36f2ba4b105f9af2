"""The verb `gmpo export`. Heavy imports wait until it is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from actors.errors import ConfigError
from services.telemetry.console import screen


def export(
    run: Annotated[str, typer.Argument(help="RUN@step-N, RUN@best, RUN@newest, or a run directory alone, which is the newest.")],
    to: Annotated[Path, typer.Option(help="Folder to write; it must not exist, or be empty.")],
    push: Annotated[str | None, typer.Option(help="Repository on the Hugging Face hub, owner/name; private unless --public.")] = None,
    public: Annotated[bool, typer.Option("--public", help="Let everyone see what is pushed.")] = False,
) -> None:
    """Write a version as a plain Hugging Face model directory with a model card, its recipe and its curves."""
    if public and push is None:
        raise ConfigError("--public says who sees what is pushed; it goes with --push")
    from services.export import hub
    from services.export.choice import choose

    if push is not None:
        hub.check_push(push)
    chosen = choose(run)
    from services.export.folder import write_folder  # takes seconds, which a mistyped version need not wait for

    manifest = write_folder(chosen, to, repo_id=push)
    out = screen()
    out.print(
        f"{to}: {manifest.run}, step {manifest.step}, weights {manifest.weights_short}", markup=False, highlight=False, soft_wrap=True
    )
    if push is not None:
        message = f"{manifest.run}, step {manifest.step}"
        out.print(hub.push(to, push, public=public, message=message), markup=False, highlight=False, soft_wrap=True)
