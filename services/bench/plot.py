"""The scaling plot: two panels, points with their spread and the fitted line; it reads in black and white."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from services.bench.scaling import Sweep


def draw_scaling(sweeps: Sequence[Sweep], path: Path, *, title: str) -> None:
    """Write the PNG."""
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, sweep in zip(figure.subplots(1, len(sweeps), squeeze=False)[0], sweeps, strict=True):
        _panel(axes, sweep)
    figure.suptitle(title, fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def _panel(axes: Axes, sweep: Sweep) -> None:
    line = sweep.line
    medians = [spread.median for spread in sweep.seconds]
    below = [spread.median - spread.low for spread in sweep.seconds]
    above = [spread.high - spread.median for spread in sweep.seconds]
    axes.errorbar(sweep.values, medians, yerr=[below, above], fmt="o", color="black", capsize=3, label="median, least and greatest")
    fitted = [line.base_s + line.per_token_s * tokens for tokens in sweep.tokens]
    label = f"{line.base_s:.3g} s + {line.per_token_s * 1e3:.3g} ms a token\nR2 {line.r2:.4f}, log-log slope {line.slope:.3f}"
    axes.plot(sweep.values, fitted, linestyle="--", color="0.45", label=label)
    axes.set_xlabel(f"{sweep.name} of an update" if sweep.name == "sequences" else f"length of each sequence [{sweep.name}]")
    axes.set_ylabel("time of an update [s]")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="upper left")
