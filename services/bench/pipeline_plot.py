"""The plot of `gmpo bench pipeline`: overlap and growth, each beside what was expected; it reads in black and white."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from services.bench.pipeline import Ran

MARKS = {0: ("o", "without staleness", "makespan + learning"), 1: ("s", "staleness 1", "the longer of the two")}


def draw_pipeline(overlap: Sequence[Ran], growth: Sequence[Ran], path: Path, *, title: str) -> None:
    """Write the PNG."""
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    _overlap(left, overlap)
    _growth(right, growth)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8, loc="upper left")
    figure.suptitle(title, fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def _overlap(axes: Axes, rans: Sequence[Ran]) -> None:
    for staleness, (mark, measured, expected) in MARKS.items():
        shown = sorted((ran for ran in rans if ran.case.staleness == staleness), key=lambda ran: ran.case.world.learn_s)
        learning = [ran.case.world.learn_s for ran in shown]
        axes.plot(learning, [ran.step_s for ran in shown], mark, color="black", label=measured)
        line = "--" if staleness == 0 else "-"
        axes.plot(learning, [ran.case.expected_s for ran in shown], line, color="0.45", label=expected)
    axes.set_xlabel("learning, each step [s]")
    axes.set_ylabel("a step [s]")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)


def _growth(axes: Axes, rans: Sequence[Ran]) -> None:
    engines = [ran.case.engines for ran in rans]
    per_engine = rans[0].groups_per_s / rans[0].case.engines
    axes.plot(engines, [ran.groups_per_s for ran in rans], "o", color="black", label="measured")
    axes.plot(engines, [per_engine * count for count in engines], "--", color="0.45", label="linear")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xlabel("simulated engines")
    axes.set_ylabel("groups trained per second")
