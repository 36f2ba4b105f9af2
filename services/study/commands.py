"""`gmpo study`: run studies, and write what they show."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from actors.errors import ConfigError
from services.telemetry.console import screen


def study(
    studies: Annotated[list[Path], typer.Argument(help="Studies, YAML files; they run in this order.")],
    results: Annotated[Path | None, typer.Option("--results", help="Markdown page to write; its figures go beside it.")] = None,
    only_results: Annotated[bool, typer.Option("--only-results", help="Run nothing, write the page of what is there.")] = False,
) -> None:
    """Run every cell of the studies under every seed, or go on with what was cut: it is the same command."""
    from services.study.config import load_study

    loaded = [load_study(path) for path in studies]  # before the imports below, which take seconds
    if len({one.name for one in loaded}) != len(loaded):
        raise ConfigError("two studies have one name, and would share their runs")
    if only_results and results is None:
        raise ConfigError("--only-results: say by --results where to write them")
    out = screen()

    def tell(text: str) -> None:
        out.print(text, markup=False, highlight=False, soft_wrap=True)

    def write() -> None:
        if results is not None:
            from services.study.results import write_results

            write_results(loaded, results)
            tell(f"results: {results}")

    if only_results:
        write()
        return
    from services.study.run import conduct, planned

    for one in loaded:
        planned(one)  # what is wrong with the last study is said before the first one runs
    for one in loaded:
        done = conduct(one, tell)
        write()
        if not done:
            tell("stopped; the same command goes on from there")
            return
