"""The drawing of one figure: lines of several series together, or the range of each in a panel of its own."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpecBase, SubplotSpec
from matplotlib.ticker import MaxNLocator

from services.compare.curves import Curve
from services.compare.style import GRID, MUTED, TEXT, Look, looks

FEW = 4
"""Series whose bands can be read in one panel; of more, each has a panel for its band."""
DECADE = 10
"""How far the extreme may be from the middle before a linear axis would flatten everything else."""

Curves = Sequence[Curve | None]
"""One a series, in their order; None where it lacks the metric."""


def draw_lines(labels: Sequence[str], curves: Curves, *, unit: str, from_zero: bool) -> Figure:
    """Each series' median as a line and its range as a band; where they are many the bands stand below, a panel each on the same axes."""
    drawn = [(label, curve, look) for label, curve, look in zip(labels, curves, looks(labels), strict=True) if curve is not None]
    if len(drawn) <= FEW:
        figure = Figure(figsize=(7.4, 4.4), layout="constrained")
        axes = figure.add_subplot()
        for label, curve, look in drawn:
            _band(axes, curve, look)
            _line(axes, curve, look, label, turn=labels.index(label) / len(labels))
            _ends(axes, curve, look)
        if len(labels) > 1:
            _legend_above(axes, [label for label, _, _ in drawn])
    else:
        figure = Figure(figsize=(10.4, 8), layout="constrained")
        halves = figure.add_gridspec(2, 1, height_ratios=(1.2, 1))
        place = halves[0].subgridspec(1, 2, width_ratios=(2.7, 1), wspace=0)
        axes, beside = figure.add_subplot(place[0]), figure.add_subplot(place[1])
        for label, curve, look in drawn:
            _line(axes, curve, look, label, turn=labels.index(label) / len(labels))
        beside.set_axis_off()
        wrapped = [textwrap.fill(label, 28) for label, _, _ in drawn]
        beside.legend(axes.get_legend_handles_labels()[0], wrapped, loc="upper left", handlelength=3.4, borderaxespad=0)
        _bands(halves[1], drawn, from_zero=from_zero)
    axes.set_xlabel("step")
    _frame(axes)
    _scale(axes, [curve for _, curve, _ in drawn], unit, from_zero=from_zero)
    return figure


def draw_ranges(labels: Sequence[str], edges: Sequence[Curves], *, unit: str) -> Figure:
    """A panel per series, sharing both axes; `edges` are the least, low, high and greatest of each series."""
    columns = min(3, len(labels)) if len(labels) != FEW else 2
    rows = math.ceil(len(labels) / columns)
    figure = Figure(figsize=(max(7.4, 3.4 * columns), 1.7 + 2.1 * rows), layout="constrained")
    panels = _grid(figure.add_gridspec(rows, columns), labels, size=10.5)
    for at, (axes, look) in enumerate(zip(panels, looks(labels), strict=True)):
        _range(axes, [curves[at] for curves in edges], look.colour)
        if at >= len(panels) - columns:
            axes.set_xlabel("step")
    figure.supylabel(_symmetric(panels[0], edges, unit), fontsize=11)
    return figure


def _bands(place: SubplotSpec, drawn: Sequence[tuple[str, Curve, Look]], *, from_zero: bool) -> None:
    """A small panel per series: its median and band before the medians of all others, in grey."""
    columns = math.ceil(len(drawn) / 2)
    panels = _grid(place.subgridspec(2, columns), [label for label, _, _ in drawn], size=9.5)
    for axes, (_, curve, look) in zip(panels, drawn, strict=True):
        for _, other, _ in drawn:
            if other is not curve:
                axes.plot(other.steps, other.median, color=MUTED, linewidth=0.8)
        _band(axes, curve, look, alpha=0.3)
        axes.plot(curve.steps, curve.median, color=look.colour, linewidth=1.9)
        _ends(axes, curve, look)
    _scale(panels[0], [curve for _, curve, _ in drawn], "", from_zero=from_zero)
    panels[0].set_ylabel("")  # as in the panel above them


def _grid(place: GridSpecBase, labels: Sequence[str], *, size: float) -> list[Axes]:
    """A titled panel per label; all share both axes, whose ticks are told at the left and below."""
    columns = place.ncols
    every = list(place.subplots(sharex=True, sharey=True, squeeze=False).flat)
    for axes in every[len(labels) :]:
        axes.remove()
    panels = every[: len(labels)]
    for at, (axes, label) in enumerate(zip(panels, labels, strict=True)):
        axes.set_title(_literal(textwrap.fill(label, int(1150 / columns / size))), loc="left", fontsize=size)
        _frame(axes)
        axes.tick_params(labelbottom=at >= len(panels) - columns, labelsize=size)
    return panels


def _literal(text: str) -> str:
    """A text that shows as it is: what stands between dollars would be read as a formula."""
    return text.replace("$", r"\$")


def _line(axes: Axes, curve: Curve, look: Look, label: str, *, turn: float) -> None:
    """`turn`, in [0, 1), moves the markers along the line, so that those of different series stand apart."""
    apart = max(1, len(curve.steps) // 7)
    axes.plot(
        curve.steps,
        curve.median,
        label=_literal(label),
        color=look.colour,
        linestyle=look.dashes,
        linewidth=1.9,
        marker=look.marker,
        markersize=6.5,
        markevery=(int(turn * apart), apart),
        markeredgecolor="none",
    )


def _band(axes: Axes, curve: Curve, look: Look, *, alpha: float = 0.2) -> None:
    if curve.runs > 1:
        axes.fill_between(curve.steps, curve.low, curve.high, color=look.colour, alpha=alpha, linewidth=0)


def _ends(axes: Axes, curve: Curve, look: Look) -> None:
    for step, value in curve.ended:
        axes.plot([step], [value], linestyle="", marker="x", markersize=7, markeredgewidth=2, color=look.colour)


def _range(axes: Axes, edges: Curves, colour: str) -> None:
    """Medians of the four edges; a light band is the seeds' range of the outer ones."""
    least, low, high, greatest = edges
    for outer in (least, greatest):
        if outer is not None:
            axes.plot(outer.steps, outer.median, color=colour, linewidth=1.2, linestyle=(0, (4, 1.5)))
            if outer.runs > 1:
                axes.fill_between(outer.steps, outer.low, outer.high, color=colour, alpha=0.15, linewidth=0)
    if low is not None and high is not None:
        steps, ours, theirs = np.intersect1d(low.steps, high.steps, return_indices=True)
        axes.fill_between(steps, low.median[ours], high.median[theirs], color=colour, alpha=0.5, linewidth=0)
    axes.axhline(0, color=TEXT, linewidth=0.6)


def _legend_above(axes: Axes, labels: Sequence[str]) -> None:
    """As many columns as fit over a panel."""
    fits = (len(labels), 2, 1)
    columns = next(count for count in fits if count == 1 or count * (max(map(len, labels)) + 9) <= 84)
    axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 1), ncols=columns, handlelength=3.4, borderaxespad=0.3)


def _scale(axes: Axes, curves: Sequence[Curve], unit: str, *, from_zero: bool) -> None:
    """A logarithmic axis where a linear one would flatten most of the values, and its label says so."""
    medians = np.concatenate([curve.median for curve in curves])
    positive = medians[medians > 0]
    if len(positive) and positive.max() > DECADE * np.median(positive):
        axes.set_yscale("log")
        axes.set_ylim(bottom=positive.min() / 1.5)
        axes.set_ylabel(f"{unit}, log scale")
        return
    axes.set_ylabel(unit)
    if from_zero:
        axes.set_ylim(bottom=0)
    elif medians.min() == medians.max():  # matplotlib would make much of nothing
        edge = 2 * float(medians[0]) or 1.0
        axes.set_ylim(min(0.0, edge), max(0.0, edge))


def _symmetric(axes: Axes, edges: Sequence[Curves], unit: str) -> str:
    """Sets the axis that all panels share, and returns its label."""
    widest = [np.abs(curve.median).max() for curves in (edges[0], edges[-1]) for curve in curves if curve is not None]
    if widest and max(widest) > DECADE * float(np.median(widest)):
        axes.set_yscale("symlog", linthresh=1)
        return f"{unit}, log scale beyond ±1"
    return unit


def _frame(axes: Axes) -> None:
    axes.grid(axis="y", linewidth=0.7, color=GRID)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.margins(x=0.02, y=0.08)
