"""What each series came to, in numbers: one value a run, and their median and range over the seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from services.compare.series import EVALUATIONS, RunCurves, Series
from services.telemetry.figures import NOTHING, number

LAST_TENTH, LAST, ALL = "last tenth", "last evaluation", "all steps"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the table of values."""

    title: str
    unit: str
    over: str
    """The steps that its values are means over."""
    value: Callable[[RunCurves], float]
    """Of one run; nan where it has none."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A value of one series; a dash where no run has it."""

    median: str
    spread: str  # the least and the greatest of the seeds; empty for one run


def final(metric: str) -> Callable[[RunCurves], float]:
    """What a run ended with: the mean over the last tenth of its steps, or its last evaluation."""

    def value(run: RunCurves) -> float:
        _, values = run.curve(metric)
        if not len(values):
            return float("nan")
        return float(values[-1]) if metric.startswith(EVALUATIONS) else float(np.mean(values[-max(1, len(values) // 10) :]))

    return value


def overall(metric: str) -> Callable[[RunCurves], float]:
    """Mean over all of a run's steps."""

    def value(run: RunCurves) -> float:
        _, values = run.curve(metric)
        return float(np.mean(values)) if len(values) else float("nan")

    return value


def width(low: str, high: str) -> Callable[[RunCurves], float]:
    """Mean distance of two metrics over all of a run's steps."""
    return lambda run: overall(high)(run) - overall(low)(run)


COLUMNS = (
    Column("reward", "", LAST_TENTH, final("reward/mean")),
    Column("accuracy, sampled", "fraction", LAST, final("eval/sampled")),
    Column("accuracy, greedy", "fraction", LAST, final("eval/greedy")),
    Column("log-ratio range", "nats", ALL, width("learner/log_ratio_min", "learner/log_ratio_max")),
    Column("log-ratio range of 98 % of tokens", "nats", ALL, width("learner/log_ratio_p01", "learner/log_ratio_p99")),
    Column("entropy", "nats", LAST_TENTH, final("learner/entropy")),
    Column("KL to the reference", "nats", LAST_TENTH, final("learner/kl_ref")),
    Column("gradient norm", "", ALL, overall("learner/grad_norm")),
    Column("clip fraction", "fraction", ALL, overall("learner/clip_fraction")),
    Column("response length", "tokens", LAST_TENTH, final("generation/length_mean")),
)


def table(series: Sequence[Series], columns: Sequence[Column] = COLUMNS) -> tuple[list[Column], list[list[Cell]]]:
    """The columns that any run has a value for, and a row of cells per series."""
    values = {column: [[column.value(run) for run in one.runs] for one in series] for column in columns}
    told = [column for column in columns if np.isfinite(np.concatenate(values[column])).any()]
    return told, [[_cell(values[column][at]) for column in told] for at in range(len(series))]


def _cell(values: Sequence[float]) -> Cell:
    there = [value for value in values if np.isfinite(value)]
    if not there:
        return Cell(NOTHING, "")
    return Cell(number(float(np.median(there))), f"{number(min(there))} to {number(max(there))}" if len(there) > 1 else "")
