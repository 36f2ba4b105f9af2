"""Charts as inline SVG whose colours are CSS variables, so that one page reads well in light and in dark."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.typing import RcKeyType

from services.telemetry.history import Series

INKS = {"#010101": "var(--ink-soft)", "#020202": "var(--grid)"} | {f"#0{n}0{n}0{n}": f"var(--series-{n - 2})" for n in (3, 4)}
"""Stand-in colours handed to matplotlib, and the CSS variables that replace them."""
TEXT, GRID, *SERIES = INKS


def style(text: str, grid: str) -> dict[RcKeyType, Any]:
    """What all figures share, in these two colours."""
    return {
        "svg.hashsalt": "gmpo",  # the same run gives the same page
        "svg.fonttype": "none",  # text stays text: it takes the page's font and can be searched
        "font.family": "sans-serif",
        "font.size": 9.5,
        "text.color": text,
        "axes.labelcolor": text,
        "axes.edgecolor": grid,
        "xtick.color": grid,
        "ytick.color": grid,
        "xtick.labelcolor": text,
        "ytick.labelcolor": text,
        "grid.color": grid,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.spines.left": False,
        "legend.frameon": False,
    }


STYLE = style(TEXT, GRID)

NORMAL, WIDE = (4.6, 2.5), (6.9, 2.7)
"""Inches, which set the size of text against the drawing."""

SMOOTH_OVER = 60
"""Steps above which a line is drawn faint with its running mean on top."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a chart."""

    label: str
    series: Series
    interval: tuple[list[float], list[float]] | None = None  # (low, high) of each value, drawn as a band


@dataclass(frozen=True, slots=True)
class Chart:
    """A titled drawing, ready for the page."""

    title: str
    note: str  # what it shows, in a sentence
    svg: str
    wide: bool


def draw(
    title: str, note: str, lines: Sequence[Line], *, unit: str, log: bool = False, top: float | None = None, wide: bool = False
) -> Chart | None:
    """A chart of at most two lines over the steps; None where none of them has a value.

    `unit` labels the y axis. `log` asks for a logarithmic axis, given up where a value is not positive; `top` fixes [0, top];
    `wide` is for two charts in a row instead of three.
    """
    lines = [line for line in lines if line.series[0]]
    if not lines:
        return None
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=WIDE if wide else NORMAL, layout="constrained")
        axes = figure.add_subplot()
        for line, colour in zip(lines, SERIES, strict=False):
            _plot(axes, line, colour)
            if line.interval:
                axes.fill_between(line.series[0], *line.interval, color=colour, alpha=0.16, linewidth=0)
        _frame(axes, unit)
        if log and all(value > 0 for line in lines for value in line.series[1]):
            axes.set_yscale("log")
        values = [value for line in lines for value in line.series[1]]
        if top is not None:
            axes.set_ylim(0, top)
        elif min(values) == max(values) and axes.get_yscale() == "linear":  # matplotlib would make much of nothing
            axes.set_ylim(min(0.0, 2 * values[0]), max(0.0, 2 * values[0]) or 1.0)
        if len(lines) > 1:
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(lines), borderaxespad=0, handlelength=1.4)
        return Chart(title=title, note=note, svg=inline(figure, label=f"{title}: {note}"), wide=wide)


def _plot(axes: Axes, line: Line, colour: str) -> None:
    steps, values = line.series
    dashes = "-" if colour == SERIES[0] else (0, (4, 1.6))  # told apart without colour too
    if len(steps) > SMOOTH_OVER:
        axes.plot(steps, values, color=colour, linewidth=0.8, alpha=0.3)
        axes.plot(steps, running_mean(values), color=colour, linewidth=1.8, linestyle=dashes, label=line.label)
        return
    marker = "o" if len(steps) <= 25 else ""
    axes.plot(steps, values, color=colour, linewidth=1.8, linestyle=dashes, marker=marker, markersize=3.5, label=line.label)


def _frame(axes: Axes, unit: str) -> None:
    axes.set_xlabel("step")
    axes.set_ylabel(unit)
    axes.grid(axis="y", linewidth=0.6)
    axes.tick_params(length=0)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.margins(x=0.02, y=0.12)


def running_mean(values: Sequence[float]) -> list[float]:
    """Mean over a window of a twentieth of the run, narrower at both ends."""
    half = max(1, len(values) // 40)
    windows = (values[max(0, at - half) : at + half + 1] for at in range(len(values)))
    return [sum(window) / len(window) for window in windows]


def inline(figure: Figure, *, label: str, inks: Mapping[str, str] = INKS) -> str:
    """The figure as an <svg> element without prologue, metadata or any address, each ink replaced by what `inks` has for it."""
    buffer = io.StringIO()
    figure.patch.set_alpha(0)
    for axes in figure.axes:
        axes.patch.set_alpha(0)
    FigureCanvasSVG(figure).print_figure(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg)
    named = f'role="img" aria-label="{html.escape(label)}">'  # which may hold backslashes
    svg = re.sub(r'^<svg [^>]*?viewBox="([^"]*)"[^>]*>', lambda head: f'<svg viewBox="{head[1]}" {named}', svg)
    svg = re.sub(r"<g id=\"[^\"]*\"", "<g", svg)  # ids of groups repeat from chart to chart; clips and markers are named by hash
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    for ink, variable in inks.items():
        svg = svg.replace(ink, variable)
    return svg
