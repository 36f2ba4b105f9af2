"""The curves of a model card: those of `gmpo compare`, of one run, up to the exported step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from services.compare.figures import PLOTS, Drawing, draw
from services.compare.series import RunCurves, Series

FOLDER = "figures"
SHOWN = {"reward/mean", "eval/sampled", "eval/greedy", "learner/entropy", "learner/log_ratio_max"}
"""Metrics whose figures a card has."""


def draw_figures(run: RunCurves, folder: Path, *, step: int) -> list[Drawing]:
    """Write those of the figures that have data up to `step` into `folder`, which is made if there are any, and return them."""
    drawn, _ = draw([Series(run.name, (up_to(run, step),))], folder, plots=[plot for plot in PLOTS if SHOWN & {*plot.metrics}])
    if not drawn:
        folder.rmdir()
    return drawn


def up_to(run: RunCurves, step: int) -> RunCurves:
    """What the run had written when it had done this step."""
    done = run.steps <= step
    return replace(
        run,
        steps=run.steps[done],
        metrics={name: values[done] for name, values in run.metrics.items()},
        evaluations=tuple(row for row in run.evaluations if row["step"] <= step),
    )
