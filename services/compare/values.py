"""What each series came to, in numbers: one value a run, and their median and range over the seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from services.compare.measures import MEASURES, Measure
from services.compare.series import Series
from services.telemetry.figures import NOTHING, number

COLUMNS = tuple(
    MEASURES[key]
    for key in ("reward", "accuracy", "greedy", "range", "bulk", "entropy", "entropy_end", "kl", "kl_mean", "grad_norm", "clip", "length")
)


@dataclass(frozen=True, slots=True)
class Cell:
    """A value of one series; a dash where no run has it."""

    median: str
    spread: str  # the least and the greatest of the seeds; empty for one run


def table(series: Sequence[Series], columns: Sequence[Measure] = COLUMNS) -> tuple[list[Measure], list[list[Cell]]]:
    """The columns that any run has a value for, and a row of cells per series."""
    values = {column.key: [[column.of(run) for run in one.runs] for one in series] for column in columns}
    told = [column for column in columns if np.isfinite(np.concatenate(values[column.key])).any()]
    return told, [[_cell(values[column.key][at]) for column in told] for at in range(len(series))]


def _cell(values: Sequence[float]) -> Cell:
    there = [value for value in values if np.isfinite(value)]
    if not there:
        return Cell(NOTHING, "")
    return Cell(number(float(np.median(there))), f"{number(min(there))} to {number(max(there))}" if len(there) > 1 else "")
