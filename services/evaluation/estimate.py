"""Shares of problems solved, with 95 % intervals.

The interval is over problems: it says how far the figure may lie from what the version would reach on all problems of that kind, of
which the set is taken as a random draw. A score interval by Wilson holds its level near 0 and 1 too, where mean ± 1.96 standard errors
does not. It is made for n independent yes-or-no answers:

- one answer a problem: n is the number of problems, and nothing else is needed;
- several answers a problem, or pass@k of them: they share the problem's difficulty, so they are not independent. n is then the number
  of independent answers that would spread as much as the problems' own values do, p (1 - p) / se² with se the standard error of the
  mean over problems; never below the number of problems, never above that of answers. Where all values are 0 or all are 1 the spread
  tells nothing, and n is the number of problems.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, variance

Z = 1.959963984540054
"""Standard deviations on either side that hold 95 % of a normal distribution."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A share with its 95 % interval."""

    value: float
    low: float
    high: float


def pass_at(k: int, samples: int, right: int) -> float:
    """Chance that one of k answers drawn without replacement from `samples`, `right` of which are right, is right.

    The unbiased estimator of pass@k by Chen et al. (arXiv 2107.03374); 1 <= k <= samples.
    """
    return 1 - math.comb(samples - right, k) / math.comb(samples, k)


def wilson(share: float, n: float) -> Estimate:
    """The score interval of a share found in n independent answers; n need not be whole."""
    spread = Z * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    middle, scale = share + Z * Z / (2 * n), 1 + Z * Z / n
    # At 0 and at 1 the interval ends there; rounding must not put the share outside it.
    return Estimate(share, max(0.0, min(share, (middle - spread) / scale)), min(1.0, max(share, (middle + spread) / scale)))


def over_problems(values: Sequence[float], samples: int) -> Estimate:
    """The mean of a set's values, one in [0, 1] for each problem, each from `samples` answers; there is at least one."""
    mean = fmean(values)
    problems = len(values)
    return wilson(mean, min(max(_independent(values, mean), problems), problems * samples))


def _independent(values: Sequence[float], mean: float) -> float:
    """How many independent answers would spread as these values do; 0 where their spread tells nothing."""
    if len(values) == 1 or mean in (0, 1):
        return 0
    squared_error = variance(values) / len(values)
    return mean * (1 - mean) / squared_error if squared_error > 0 else math.inf


def over_sets(sets: Sequence[Estimate]) -> Estimate:
    """The unweighted mean over sets, which are independent of each other.

    Each side's distances are combined as standard errors are, by the root of their squares (Zou and Donner, Statistics in Medicine 2008):
    for one set this is its own interval, and where intervals are symmetric it adds variances.
    """
    mean = fmean(one.value for one in sets)
    below = math.hypot(*(one.value - one.low for one in sets)) / len(sets)
    above = math.hypot(*(one.high - one.value for one in sets)) / len(sets)
    return Estimate(mean, max(0.0, mean - below), min(1.0, mean + above))
