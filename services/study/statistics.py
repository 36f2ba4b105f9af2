"""Medians over a handful of seeds, with intervals that are worked out exactly instead of drawn at random.

The interval of a median is the 95 % percentile bootstrap: of all n^n ways to draw n of the n values with replacement, the medians that
at least 2.5 % of them reach on either side. The chance of each median follows from counting, so nothing is drawn and the same values
always give the same interval.

With up to 5 values this interval runs from the least to the greatest: to draw the least value so often that it is the median happens in
more than 2.5 % of all ways. It then holds the true median with a chance of 1 - 2^(1-n), 75 % for n = 3 and 94 % for n = 5, whatever the
values are spread like: that is `range_coverage`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

TAIL = 0.025
"""Share of the resamples beyond each end of an interval."""
RANGE_UP_TO = 5
"""Values up to which the interval is the whole range."""


@dataclass(frozen=True, slots=True)
class Spread:
    """A median with its 95 % interval; of up to `RANGE_UP_TO` values that is their range."""

    median: float
    low: float
    high: float
    n: int  # values it is the median of


@dataclass(frozen=True, slots=True)
class Paired:
    """One cell against another, seed by seed."""

    differences: tuple[float, ...]  # in the order of the seeds that both have
    spread: Spread  # of the differences

    @property
    def above(self) -> int:
        """Seeds under which the first cell has more."""
        return sum(difference > 0 for difference in self.differences)


def spread_of(values: Iterable[float]) -> Spread | None:
    """Median and interval of the values that are finite; None where there are none."""
    ordered = sorted(value for value in values if math.isfinite(value))
    if not ordered:
        return None
    chances = median_chances(ordered)
    return Spread(median(ordered), _reached(chances), _reached(chances[::-1]), len(ordered))


def paired(by_seed: Mapping[int, float]) -> Paired | None:
    """The differences that are finite, of {seed: difference}; None where there are none."""
    differences = tuple(by_seed[seed] for seed in sorted(by_seed) if math.isfinite(by_seed[seed]))
    spread = spread_of(differences)
    return None if spread is None else Paired(differences, spread)


def median_chances(ordered: Sequence[float]) -> list[tuple[float, float]]:
    """(value, chance) of each median that a resample of these rising values may have, by rising value."""
    n = len(ordered)
    half = n // 2
    if n % 2:
        reached = [_at_least(half + 1, n, rank / n) for rank in range(n + 1)]
        return [(ordered[rank], reached[rank + 1] - reached[rank]) for rank in range(n)]
    # The median lies between two values, the lower of rank i and the upper of rank j. For i < j half of the draws are of rank i or less,
    # one of them i; the others are of rank j or more, one of them j. What is left of the lower value's chance is where both are i.
    up_to = [(rank / n) ** half for rank in range(n + 1)]
    ways = math.comb(n, half)
    chances = []
    for i in range(n):
        apart = [ways * (up_to[i + 1] - up_to[i]) * (up_to[n - j] - up_to[n - j - 1]) for j in range(i + 1, n)]
        lower = _at_least(half, n, (i + 1) / n) - _at_least(half, n, i / n)
        chances.append((ordered[i], lower - sum(apart)))
        chances += [((ordered[i] + ordered[j]) / 2, chance) for j, chance in zip(range(i + 1, n), apart, strict=True)]
    return sorted(chances)


def range_coverage(n: int) -> float:
    """Chance that the range of n independent values holds the median of what they are drawn from."""
    return 1 - 2.0 ** (1 - n)


def one_sided_chance(n: int) -> float:
    """Chance that all n differences lie on a side named beforehand where in truth neither side is likelier."""
    return 2.0**-n


def two_sided_chance(n: int) -> float:
    """Chance that the interval of n differences lies on one side of 0, whichever, where in truth neither is likelier.

    Counted over their signs: exact for odd n, and near it for even n, where sizes decide what the mean of two values is.
    """
    spreads = [(below, spread_of([-1.0] * below + [1.0] * (n - below))) for below in range(n + 1)]
    return 2.0 ** (1 - n) * sum(math.comb(n, below) for below, spread in spreads if spread is not None and spread.low > 0)


def _at_least(hits: int, n: int, chance: float) -> float:
    return sum(math.comb(n, k) * chance**k * (1 - chance) ** (n - k) for k in range(hits, n + 1))


def _reached(chances: Sequence[tuple[float, float]]) -> float:
    """The first value at which the chances, added up from this end, come to the tail's share."""
    totals = itertools.accumulate(chance for _, chance in chances)
    return next(value for (value, _), total in zip(chances, totals, strict=True) if total >= TAIL)
