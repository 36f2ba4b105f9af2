"""The verb `gmpo compare`. Heavy imports wait until it is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from services.telemetry.console import screen

PAGE = "compare.html"


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run directories; those that differ in nothing but their seed are one line.")],
    to: Annotated[Path, typer.Option("--to", help="Folder for the figures and the page.")] = Path("compare"),
) -> None:
    """Draw the curves of several runs together: a PNG and an SVG a figure, and one page with all of them."""
    from services.compare.figures import draw
    from services.compare.page import write_page
    from services.compare.series import grouped, read_run

    skipped = _beside_runs(runs)
    series = grouped([read_run(run) for run in runs if run not in skipped])
    drawings, missing = draw(series, to)
    page = write_page(series, drawings, missing, to / PAGE)
    out = screen()
    for path in skipped:
        out.print(f"skipped: {path} holds no run", markup=False, highlight=False, soft_wrap=True)
    for one in series:
        out.print(f"{one.label}: {len(one.runs)} run{'s' * (len(one.runs) != 1)}", markup=False, highlight=False, soft_wrap=True)
    for left in missing:
        out.print(f"left out: {left.plot.title}: {left.why}", markup=False, highlight=False, soft_wrap=True)
    out.print(str(page), markup=False, soft_wrap=True)


def _beside_runs(paths: list[Path]) -> list[Path]:
    """Files and folders without a run that lie beside one: a shell puts them there for `runs/<study>/*`."""
    places = {path.parent for path in paths if _holds_run(path)}
    return [path for path in paths if path.parent in places and path.exists() and not _holds_run(path)]


def _holds_run(path: Path) -> bool:
    return (path / "config.yaml").is_file()
