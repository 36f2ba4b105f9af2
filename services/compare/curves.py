"""A series as one curve: the median over its runs, step by step, and the range they fill."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from services.compare.series import Series
from services.telemetry.charts import SMOOTH_OVER


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """One metric of one series; at each step over the runs that have it there."""

    steps: np.ndarray  # [S] int, rising, at least one
    median: np.ndarray  # [S] float
    low: np.ndarray  # [S] the least of the runs
    high: np.ndarray  # [S] the greatest
    runs: int  # that have the metric anywhere
    ended: tuple[tuple[int, float], ...]  # (step, value) with which runs end before the longest one
    smoothed: bool  # each run is a running median


def over_seeds(series: Series, metric: str, *, smooth: bool = False) -> Curve | None:
    """The curve of `metric`; None where no run of the series has a finite value.

    `smooth` takes the running median of each run first, in series over more than 60 steps. After a run's end the median is of those left.
    """
    curves = [curve for run in series.runs if len((curve := run.curve(metric))[0])]
    if not curves:
        return None
    every = np.unique(np.concatenate([steps for steps, _ in curves]))
    smoothed = smooth and len(every) > SMOOTH_OVER
    table = np.full((len(curves), len(every)), np.nan)
    for row, (steps, values) in zip(table, curves, strict=True):
        row[np.searchsorted(every, steps)] = running_median(values) if smoothed else values
    lasts = [np.flatnonzero(np.isfinite(row))[-1] for row in table]
    return Curve(
        steps=every,
        median=np.nanmedian(table, axis=0),
        low=np.nanmin(table, axis=0),
        high=np.nanmax(table, axis=0),
        runs=len(curves),
        ended=tuple((int(every[last]), float(row[last])) for row, last in zip(table, lasts, strict=True) if last < len(every) - 1),
        smoothed=smoothed,
    )


def running_median(values: np.ndarray) -> np.ndarray:
    """Median over a window of a twentieth of the run, narrower at both ends. An outlier leaves no trace; a mean would make it a plateau."""
    half = max(1, len(values) // 40)
    return np.array([np.median(values[max(0, at - half) : at + half + 1]) for at in range(len(values))])
