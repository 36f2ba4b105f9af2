"""The paper's claims (arXiv 2507.20673) as data, and what the runs of a study say to each.

A claim says on which side of another objective GMPO lies in one measure. The rule stands before any run is read: with the differences
paired by seed, a claim *holds* if the whole interval of their median lies on the claimed side, *does not hold* if it lies on the other
side, and else *cannot be said*; nor can it with fewer than three pairs. "At least as good" has a margin: it holds if the interval lies
above minus the margin, and does not if it lies below.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from services.study.config import Study
from services.study.measures import MEASURES, by_seed
from services.study.records import Ended, Records
from services.study.statistics import Paired, paired

HOLDS, FAILS, OPEN = "holds", "does not hold", "cannot be said"
FEWEST_PAIRS = 3
MARGIN = 0.02
"""What "at least" allows, of accuracy and of reward."""

Scope = Literal["everywhere", "mean over", "greatest"]


@dataclass(frozen=True, slots=True)
class Claim:
    """`ours` lies above (or below) `theirs` in a measure; both are levels of a study's first factor."""

    sentence: str
    source: str
    ours: str
    theirs: str
    measure: str
    side: Literal["above", "below"]
    margin: float = 0.0
    scope: Scope = "everywhere"
    """Where a study has more factors: at each combination of their levels by itself; or, for each factor of numbers, on the mean over
    its levels or at its greatest one, at each combination of the levels of the rest."""

    def toward(self, difference: float) -> float:
        """How far a difference lies on the claimed side, in the measure's unit."""
        return (difference if self.side == "above" else -difference) + self.margin


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the runs say to a claim, at one place of a study."""

    claim: Claim
    where: str  # "ratio = tis, mean over staleness"; empty where a study has but one place
    difference: Paired | None  # ours - theirs; None where no seed has both

    @property
    def word(self) -> str:
        """HOLDS, FAILS or OPEN, by the rule above."""
        if self.difference is None or len(self.difference.differences) < FEWEST_PAIRS:
            return OPEN
        spread = self.difference.spread
        ends = (self.claim.toward(spread.low), self.claim.toward(spread.high))
        return HOLDS if min(ends) > 0 else FAILS if max(ends) < 0 else OPEN

    @property
    def agreeing(self) -> int:
        """Seeds under which the difference lies on the claimed side."""
        return sum(self.claim.toward(difference) > 0 for difference in (self.difference.differences if self.difference else ()))


_RANGE, _BULK = "log-ratio range", "log-ratio range of 98 % of the tokens"

CLAIMS: tuple[Claim, ...] = (
    Claim(f"GMPO has a narrower {_RANGE} than GRPO", "design", "gmpo", "grpo", "range", "below"),
    Claim(f"GMPO has a narrower {_BULK} than GRPO", "design", "gmpo", "grpo", "bulk", "below"),
    Claim(f"GMPO has a narrower {_RANGE} than GRPO with the same wide clip", "asked by reviewers", "gmpo", "grpo-wide", "range", "below"),
    Claim(f"GMPO has a narrower {_BULK} than GRPO with the same wide clip", "asked by reviewers", "gmpo", "grpo-wide", "bulk", "below"),
    Claim(f"Clipping tokens gives a narrower {_RANGE} than clipping whole responses", "Fig. 3", "gmpo", "gmpo-seq-clip", "range", "below"),
    Claim("Without 1/length a response's weight leaves 1 farther behind", "App. C, Fig. 6", "gmpo", "gmpo-no-norm", "weight", "below"),
    Claim("GMPO keeps a higher entropy than GRPO", "Fig. 4", "gmpo", "grpo", "entropy", "above"),
    Claim("GMPO ends with a higher entropy than GRPO with the same wide clip", "Fig. 4", "gmpo", "grpo-wide", "entropy_end", "above"),
    Claim("GMPO stays nearer to the starting policy than GRPO (smaller KL)", "Fig. 4", "gmpo", "grpo", "kl", "below"),
    Claim("GMPO has a steadier gradient norm than GRPO", "Fig. 4", "gmpo", "grpo", "unsteadiness", "below"),
    Claim("GMPO earns at least the mean reward of GRPO", "text", "gmpo", "grpo", "reward", "above", MARGIN),
    Claim("GMPO ends at least as accurate as GRPO", "Table 1", "gmpo", "grpo", "accuracy", "above", MARGIN),
    Claim("GMPO ends more accurate than GRPO", "Table 1", "gmpo", "grpo", "accuracy", "above"),
    Claim("GMPO ends at least as accurate as without a clip", "Table 4", "gmpo", "gmpo-no-clip", "accuracy", "above", MARGIN),
    Claim(
        "GMPO ends at least as accurate as with whole responses clipped", "Table 4", "gmpo", "gmpo-seq-clip", "accuracy", "above", MARGIN
    ),
    Claim("GMPO ends at least as accurate as without 1/length", "Table 4", "gmpo", "gmpo-no-norm", "accuracy", "above", MARGIN),
    Claim("GMPO ends at least as accurate as Dr. GRPO", "Table 1", "gmpo", "dr-grpo", "accuracy", "above", MARGIN),
    Claim("GMPO ends at least as accurate as DAPO", "asked by reviewers", "gmpo", "dapo", "accuracy", "above", MARGIN),
    Claim("GMPO ends at least as accurate as GSPO", "asked by reviewers", "gmpo", "gspo", "accuracy", "above", MARGIN),
    Claim(
        "Farther off-policy, GMPO ends more accurate than GRPO (mean over the levels)",
        "text",
        "gmpo",
        "grpo",
        "accuracy",
        "above",
        0,
        "mean over",
    ),
    Claim(
        "Farthest off-policy, GMPO ends more accurate than GRPO (greatest level)",
        "text",
        "gmpo",
        "grpo",
        "accuracy",
        "above",
        0,
        "greatest",
    ),
)


def verdicts(claim: Claim, records: Records) -> list[Verdict]:
    """One for each place of the study where the claim can be put; empty where the study has not the objectives or factors for it."""
    study = records.study
    objectives, *others = study.factors.values()
    if not {claim.ours, claim.theirs} <= set(objectives):
        return []
    return [Verdict(claim, where, _difference(claim, records, places)) for where, places in _places(claim.scope, study, others)]


def numeric(levels: tuple[str, ...]) -> bool:
    """Whether a factor's levels are numbers, so that they have an order and a greatest."""
    try:
        return len({float(level) for level in levels}) > 1
    except ValueError:
        return False


def _places(scope: Scope, study: Study, others: list[tuple[str, ...]]) -> Iterator[tuple[str, list[tuple[str, ...]]]]:
    """(name, combinations of the other factors' levels that are put together) of each place."""
    names = list(study.factors)[1:]
    if scope == "everywhere":
        for levels in itertools.product(*others):
            yield ", ".join(f"{name} = {level}" for name, level in zip(names, levels, strict=True)), [levels]
        return
    for at, (name, along) in enumerate(zip(names, others, strict=True)):
        if not numeric(along):
            continue
        taken = along if scope == "mean over" else (max(along, key=float),)
        last = f"{scope} {name}" if scope == "mean over" else f"{name} = {taken[0]}"
        for rest in itertools.product(*others[:at], *others[at + 1 :]):
            fixed = [f"{other} = {level}" for other, level in zip(names[:at] + names[at + 1 :], rest, strict=True)]
            yield ", ".join([*fixed, last]), [(*rest[:at], level, *rest[at:]) for level in taken]


def _difference(claim: Claim, records: Records, places: list[tuple[str, ...]]) -> Paired | None:
    ours, theirs = (_together(claim, [records.runs[(objective, *levels)] for levels in places]) for objective in (claim.ours, claim.theirs))
    return paired(ours, theirs)


def _together(claim: Claim, cells: list[Mapping[int, Ended]]) -> dict[int, float]:
    """{seed: mean over the cells} of the seeds that have a figure in every cell."""
    figures = [by_seed(MEASURES[claim.measure], runs) for runs in cells]
    return {seed: mean for seed in figures[0] if math.isfinite(mean := fmean(figure.get(seed, math.nan) for figure in figures))}
