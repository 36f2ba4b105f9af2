"""Figures of a study: curves over the steps where it has one factor, figures of the ended runs over the levels of a sweep."""

from __future__ import annotations

import itertools
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from services.compare.figures import draw
from services.compare.measures import MEASURES, Measure
from services.compare.series import Series
from services.compare.style import LOOKS, STYLE, Look, looks, save_png
from services.study.claims import numeric
from services.study.measures import by_seed
from services.study.records import DIVERGED, Records
from services.study.statistics import Spread, spread_of

SWEPT = ("accuracy", "reward", "range")
KEY = "mark: median of the seeds; small marks: runs\nbar: range of the seeds, of more than five the 95 % interval"
DIVERGED_AS = {"accuracy": "counts as 0", "reward": "0 from then on"}
"""What a run that diverged stands for in a measure; in others, for the steps it made."""
ACROSS = 3
"""Panels beside each other."""


def in_curves(records: Records) -> list[tuple[str, ...]]:
    """The cells that `draw_curves` draws: the baseline, and as many others as can be told apart, in the study's order."""
    there = [levels for levels, runs in records.runs.items() if runs]
    first = sorted(there, key=lambda levels: levels[0] != records.study.baseline)[: len(LOOKS)]
    return [levels for levels in there if levels in first]


def draw_curves(records: Records, directory: Path) -> list[tuple[str, Path]]:
    """(what it shows, file) of each figure of `gmpo compare`."""
    series = [Series("-".join(levels), tuple(run.curves for run in records.runs[levels].values())) for levels in in_curves(records)]
    if not series:
        return []
    drawings, _ = draw(series, directory)
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
        _save(sweep_figure(records, measure), path)
    return drawn


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_png(figure, path)


def sweep_figure(records: Records, measure: Measure) -> Figure:
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
        figure.supxlabel(f"{names[1]} (levels at equal distances)\n{KEY}{_crosses(records, measure)}", fontsize=9.5)
        figure.supylabel(measure.head, fontsize=10)
        handles, labels = grid[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=min(5, len(labels)), handlelength=3)
    return figure


def _crosses(records: Records, measure: Measure) -> str:
    """What the crosses are, if there are any."""
    there = any(run.outcome == DIVERGED for run in records.ended)
    return f"\ncross: a run that diverged, {DIVERGED_AS.get(measure.key, 'the steps it made')}" if there else ""


def _panel(axes: Axes, records: Records, measure: Measure, rest: tuple[str, ...]) -> None:
    objectives, columns, *_ = records.study.factors.values()
    ordered = sorted(columns, key=float)
    for at, (objective, look) in enumerate(zip(objectives, looks(objectives), strict=True)):
        shift = 0.12 * (at - (len(objectives) - 1) / 2)  # levels stand at equal distances; two objectives' marks beside each other
        spreads: dict[float, Spread] = {}
        for place, column in enumerate(ordered):
            runs = records.runs[(objective, column, *rest)]
            values = by_seed(measure, runs)
            if spread := spread_of(values.values()):
                spreads[place + shift] = spread
            for seed, value in values.items():
                marker, size = ("x", 6.0) if runs[seed].outcome == DIVERGED else (look.marker, 3.0)
                axes.plot([place + shift + 0.04], [value], marker, color=look.colour, markersize=size, fillstyle="none", linestyle="")
        _medians(axes, spreads, look, label=objective)
    axes.set_xticks(range(len(ordered)), ordered)
    axes.grid(axis="y", linewidth=0.5, color="0.88")


def _medians(axes: Axes, spreads: dict[float, Spread], look: Look, *, label: str) -> None:
    """A mark and a bar at each place that has any; what joins them is faint, for nothing was measured in between."""
    places, medians = list(spreads), [spread.median for spread in spreads.values()]
    below = [spread.median - spread.low for spread in spreads.values()]
    above = [spread.high - spread.median for spread in spreads.values()]
    axes.plot(places, medians, color=look.colour, linestyle=look.dashes, linewidth=1, alpha=0.35)
    axes.errorbar(places, medians, yerr=(below, above), fmt=look.marker, color=look.colour, markersize=6, linewidth=1.2, label=label)
