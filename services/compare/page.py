"""`compare.html`: the figures of a comparison, what differs between its series and what they came to, in one file that needs no network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from services.compare.figures import Drawing, Missing
from services.compare.series import RunCurves, Series
from services.compare.settings import differing, short, word
from services.compare.style import DARK, INKS, LIGHT, STYLE, Look, looks
from services.compare.values import table
from services.telemetry.atomic import write_atomically
from services.telemetry.charts import inline
from services.telemetry.figures import NOTHING
from services.telemetry.pages import template

WIDE = 9
"""Inches from which a figure takes the whole width of the page."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure as the page shows it."""

    svg: str
    note: str
    wide: bool


@dataclass(frozen=True, slots=True)
class Entry:
    """A series as the page lists it."""

    label: str
    swatch: str
    seeds: str
    steps: str
    settings: list[str]


def write_page(series: Sequence[Series], drawings: Sequence[Drawing], missing: Sequence[Missing], path: Path) -> Path:
    """Write the page of what `draw` made of `series`, and return its path. It takes the drawings' background away."""
    settings = differing([run.recipe for run in (one.runs[0] for one in series)])
    columns, rows = table(series)
    shown = zip(series, looks([one.label for one in series]), strict=True)
    page = template(Path(__file__).with_name("page.html.j2")).render(
        title=f"{_count(len(series), 'series', 'series')}, {_count(sum(len(one.runs) for one in series), 'run', 'runs')}",
        settings=short(list(settings)),
        entries=[_entry(one, look, [values[at] for values in settings.values()]) for at, (one, look) in enumerate(shown)],
        pictures=[_picture(drawing) for drawing in drawings],
        missing=[(one.plot.title, one.why) for one in missing],
        columns=columns,
        rows=list(zip((one.label for one in series), rows, strict=True)),
        runs=[(one.label, run, _progress(run)) for one in series for run in one.runs],
        colours=list(zip(LIGHT, DARK, strict=True)),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, page)
    return path


def _picture(drawing: Drawing) -> Picture:
    label = f"{drawing.plot.title}. {drawing.plot.note} {drawing.caption}"
    with matplotlib.rc_context(STYLE):
        svg = inline(drawing.figure, label=label, inks=INKS)
    return Picture(svg, drawing.plot.note, drawing.figure.get_figwidth() >= WIDE)


def _entry(series: Series, look: Look, values: Sequence[Any]) -> Entry:
    steps = [int(np.max(run.steps, initial=0)) for run in series.runs]
    return Entry(
        label=series.label,
        swatch=_swatch(look, series.label),
        seeds=_spoken([run.seed for run in series.runs]),
        steps=str(steps[0]) if len(set(steps)) == 1 else f"{min(steps)} to {max(steps)}",
        settings=[NOTHING if value is None else word(value) for value in values],
    )


def _swatch(look: Look, label: str) -> str:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(0.8, 0.2))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.set_xlim(0, 2)
        axes.plot(
            [0.1, 1, 1.9], [0, 0, 0], color=look.colour, linestyle=look.dashes, linewidth=2, marker=look.marker, markevery=[1], markersize=7
        )
        return inline(figure, label=f"line of {label}", inks=INKS)


def _spoken(seeds: Sequence[int]) -> str:
    """Seeds, rising; "0 to 4" where none between is left out."""
    if len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]} to {seeds[-1]}"
    return ", ".join(map(str, seeds))


def _progress(run: RunCurves) -> str:
    """How far a run came, of what its recipe says."""
    done = int(np.max(run.steps, initial=0))
    wanted = run.recipe.get("run", {}).get("steps")
    return str(done) if wanted in (done, None) else f"{done} of {wanted}"


def _count(number: int, one: str, more: str) -> str:
    return f"{number} {one if number == 1 else more}"
