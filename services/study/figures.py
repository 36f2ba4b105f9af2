"""Figures of a study: curves over the steps where it has one factor, figures of the ended runs over the levels of a sweep."""

from __future__ import annotations

import itertools
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from services.compare.figures import draw
from services.compare.series import Series
from services.compare.style import LOOKS, STYLE, Look
from services.study.claims import numeric
from services.study.measures import MEASURES, Measure, by_seed
from services.study.records import Records
from services.study.statistics import Spread, spread_of

SWEPT = ("accuracy", "reward", "range")
KEY = "line: median of the seeds; band: its 95 % interval; small marks: runs"
ACROSS = 3
"""Panels beside each other."""


def draw_curves(records: Records, directory: Path) -> list[tuple[str, Path]]:
    """(what it shows, file) of each figure of `gmpo compare`, for as many cells as can be told apart in one."""
    series = [Series("-".join(levels), tuple(run.curves for run in runs.values())) for levels, runs in records.runs.items() if runs]
    if not series:
        return []
    drawings, _ = draw(series[: len(LOOKS)], directory)
    for drawing in drawings:
        drawing.svg.unlink()  # a page of Markdown shows the other
    return [(drawing.plot.title, drawing.png) for drawing in drawings]


def draw_sweeps(records: Records, directory: Path) -> list[tuple[str, Path]]:
    """(what it shows, file) of a figure for each measure worth one; none where the second factor's levels are no numbers."""
    second, columns = list(records.study.factors.items())[1]
    if not numeric(columns) or not records.ended:
        return []
    drawn = []
    for measure in (MEASURES[key] for key in SWEPT):
        path = directory / f"{measure.key}.png"
        drawn.append((f"{measure.head} over {second}", path))
        _save(_sweep(records, measure), path)
    return drawn


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, metadata={"Software": None})  # the same runs give the same file


def _sweep(records: Records, measure: Measure) -> Figure:
    """A panel for each combination of the third and later factors' levels, all on the same axes."""
    study = records.study
    names = list(study.factors)
    panels = list(itertools.product(*list(study.factors.values())[2:]))
    across = min(ACROSS, len(panels))
    down = -(-len(panels) // across)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(0.8 + 3.4 * across if across > 1 else 5.6, 0.6 + 3.0 * down), layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).flat
        for at, axes in enumerate(grid):
            if at >= len(panels):
                axes.set_visible(False)
                continue
            _panel(axes, records, measure, panels[at])
            axes.set_title(", ".join(f"{name} {level}" for name, level in zip(names[2:], panels[at], strict=True)), fontsize=10)
            axes.tick_params(labelbottom=at + across >= len(panels))
        figure.supxlabel(f"{names[1]} (levels at equal distances)\n{KEY}", fontsize=9.5)
        figure.supylabel(measure.head, fontsize=10)
        handles, labels = grid[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=min(5, len(labels)), handlelength=3)
    return figure


def _panel(axes: Axes, records: Records, measure: Measure, rest: tuple[str, ...]) -> None:
    objectives, columns, *_ = records.study.factors.values()
    ordered = sorted(columns, key=float)
    for at, objective in enumerate(objectives):
        shift = 0.07 * (at - (len(objectives) - 1) / 2)  # levels stand at equal distances; seeds of two objectives beside each other
        figures = [list(by_seed(measure, records.runs[(objective, column, *rest)]).values()) for column in ordered]
        spreads = {place: spread for place, values in enumerate(figures) if (spread := spread_of(values))}
        look = LOOKS[at % len(LOOKS)]
        _line(axes, spreads, look, shift=shift, label=objective)
        for place, values in enumerate(figures):
            axes.plot([place + shift] * len(values), values, look.marker, color=look.colour, markersize=3, fillstyle="none", linestyle="")
    axes.set_xticks(range(len(ordered)), ordered)
    axes.grid(axis="y", linewidth=0.5, color="0.88")


def _line(axes: Axes, spreads: dict[int, Spread], look: Look, *, shift: float, label: str) -> None:
    """Medians of the places that have any, and the band of their intervals."""
    places = [place + shift for place in spreads]
    medians = [spread.median for spread in spreads.values()]
    axes.plot(places, medians, color=look.colour, linestyle=look.dashes, marker=look.marker, markersize=6, label=label)
    lows, highs = [spread.low for spread in spreads.values()], [spread.high for spread in spreads.values()]
    axes.fill_between(places, lows, highs, color=look.colour, alpha=0.15, linewidth=0)
