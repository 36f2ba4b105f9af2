"""The plot of `gmpo bench endpoint`: throughput and latency over clients, both ways; it reads in black and white."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from services.bench.results import Report, Row

LINES = {"gmpo": ("o-", "black", "this endpoint"), "bare": ("s--", "0.45", "vllm serve")}
FIGURES = {"requests_per_s_median": "requests per second", "latency_p50_ms": "median latency [ms]"}


def draw_endpoint(report: Report, path: Path, *, title: str) -> None:
    """Write the PNG: a line of panels for each kind of answer."""
    kinds = list(dict.fromkeys(row["kind"] for row in report.rows))
    figure = Figure(figsize=(9, 3.6 * len(kinds)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(kinds), len(FIGURES), squeeze=False)
    for kind, line in zip(kinds, panels, strict=True):
        for name, axes in zip(FIGURES, line, strict=True):
            _draw(axes, [row for row in report.rows if row["kind"] == kind], name)
            axes.set_title(f"{kind} answers", fontsize=9)
    figure.suptitle(title, fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def _draw(axes: Axes, rows: Sequence[Row], name: str) -> None:
    for way, (line, color, label) in LINES.items():
        shown = [row for row in rows if row["way"] == way]
        clients, figures = (np.array([row[column] for row in shown], dtype=float) for column in ("clients", name))
        axes.plot(clients, figures, line, color=color, label=label)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("clients")
    axes.set_ylabel(FIGURES[name])
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
