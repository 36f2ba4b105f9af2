"""The paper's claims (arXiv 2507.20673) as data, and what the runs of a study say to each.

A claim says on which side of another objective GMPO lies in one measure. The rule stands before any run is read: with the differences
paired by seed, a claim *holds* if the whole interval of their median lies on the claimed side, *does not hold* if it lies on the other
side, and else *cannot be said*; nor can it with fewer than three pairs, or where a second measure of the same thing says otherwise. "At
least as good" has a margin: it holds if the interval lies above minus the margin, and does not if it lies below.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from services.compare.measures import MEASURES
from services.study.config import Study
from services.study.measures import differences
from services.study.records import Records
from services.study.statistics import RANGE_UP_TO, Paired, paired

HOLDS, FAILS, OPEN = "holds", "does not hold", "cannot be said"
FEWEST_PAIRS = 3
MARGIN = 0.02
"""What "at least" allows, of accuracy and of reward."""

Along = Literal["", "mean over", "greatest", "greatest less least"]
Weighted = list[tuple[float, tuple[str, ...]]]
"""Combinations of the levels of a study's further factors, and what each counts for."""


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
    second: str = ""
    """Another measure of the same thing, that must say the same."""
    factor: str = ""
    """What the claim is about, where it is about a sweep: only studies with this factor, of numbers, are asked."""
    along: Along = ""
    """What is taken of that factor's levels. Further factors are held, at each combination of their levels."""

    def toward(self, difference: float) -> float:
        """How far a difference lies on the claimed side, in the measure's unit."""
        return (difference if self.side == "above" else -difference) + self.margin

    def word(self, difference: Paired | None) -> str:
        """HOLDS, FAILS or OPEN, by what one measure says."""
        if difference is None or len(difference.differences) < FEWEST_PAIRS:
            return OPEN
        ends = (self.toward(difference.spread.low), self.toward(difference.spread.high))
        return HOLDS if min(ends) > 0 else FAILS if max(ends) < 0 else OPEN

    def agreeing(self, difference: Paired) -> int:
        """Seeds under which the difference lies on the claimed side."""
        return sum(self.toward(each) > 0 for each in difference.differences)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the runs say to a claim, at one place of a study."""

    claim: Claim
    where: str  # "correction = tis, mean over lr"; empty where a study has but one place
    difference: Paired | None  # ours - theirs; None where no seed has both
    second: Paired | None = None  # the same in the claim's second measure

    @property
    def word(self) -> str:
        """HOLDS, FAILS or OPEN, by the rule above."""
        word = self.claim.word(self.difference)
        return word if not self.claim.second or self.claim.word(self.second) == word else OPEN

    @property
    def told(self) -> str:
        """The word with the seeds that it rests on: of few, holding is no more than that all of them agree."""
        n = self.difference.spread.n if self.difference else 0
        of_all = {HOLDS: f"holds in all {n} seeds", FAILS: f"holds in none of {n} seeds"}
        return of_all.get(self.word, OPEN) if n <= RANGE_UP_TO else self.word


_GRPO = partial(Claim, ours="gmpo", theirs="grpo")
_WIDE = partial(Claim, ours="gmpo", theirs="grpo-wide")
_AT_LEAST = partial(Claim, ours="gmpo", measure="accuracy", side="above", margin=MARGIN)
_RANGE, _BULK = "log-ratio range", "log-ratio range of 98 % of the tokens"

CLAIMS: tuple[Claim, ...] = (
    _GRPO(f"GMPO has a narrower {_RANGE} than GRPO", "design", measure="range", side="below"),
    _GRPO(f"GMPO has a narrower {_BULK} than GRPO", "design", measure="bulk", side="below"),
    _WIDE(f"GMPO has a narrower {_RANGE} than GRPO with the same wide clip", "asked by reviewers", measure="range", side="below"),
    _WIDE(f"GMPO has a narrower {_BULK} than GRPO with the same wide clip", "asked by reviewers", measure="bulk", side="below"),
    Claim(f"Clipping tokens gives a narrower {_RANGE} than clipping whole responses", "Fig. 3", "gmpo", "gmpo-seq-clip", "range", "below"),
    Claim(
        "Without 1/length the mean weight of a step's responses leaves 1 farther behind",
        "App. C, Fig. 6",
        "gmpo",
        "gmpo-no-norm",
        "weight",
        "below",
    ),
    _GRPO("GMPO keeps a higher entropy than GRPO", "Fig. 4", measure="entropy", side="above"),
    _WIDE("GMPO ends with a higher entropy than GRPO with the same wide clip", "Fig. 4", measure="entropy_end", side="above"),
    _GRPO(
        "GMPO stays nearer to the starting policy than GRPO (smaller KL, by its median and by its mean)",
        "Fig. 4",
        measure="kl",
        side="below",
        second="kl_mean",
    ),
    _GRPO("GMPO has a steadier gradient norm than GRPO", "Fig. 4", measure="unsteadiness", side="below"),
    _GRPO("GMPO earns at least the mean reward of GRPO", "text", measure="reward", side="above", margin=MARGIN),
    _GRPO("GMPO earns more mean reward than GRPO", "text; asked once the runs were in", measure="reward", side="above"),
    _AT_LEAST("GMPO ends at least as accurate as GRPO", "Table 1", theirs="grpo"),
    _GRPO("GMPO ends more accurate than GRPO", "Table 1", measure="accuracy", side="above"),
    _AT_LEAST("GMPO ends at least as accurate as without a clip", "Table 4", theirs="gmpo-no-clip"),
    _AT_LEAST("GMPO ends at least as accurate as with whole responses clipped", "Table 4", theirs="gmpo-seq-clip"),
    _AT_LEAST("GMPO ends at least as accurate as without 1/length", "Table 4", theirs="gmpo-no-norm"),
    _AT_LEAST("GMPO ends at least as accurate as Dr. GRPO", "Table 1", theirs="dr-grpo"),
    _AT_LEAST("GMPO ends at least as accurate as with DAPO's loss", "asked by reviewers", theirs="dapo"),
    _AT_LEAST("GMPO ends at least as accurate as GSPO", "asked by reviewers", theirs="gspo"),
    _GRPO(
        "Far off-policy GMPO is the stabler: from the freshest data to the oldest it loses less accuracy than GRPO",
        "text",
        measure="accuracy",
        side="above",
        factor="staleness",
        along="greatest less least",
    ),
    _GRPO(
        "On the oldest data GMPO ends more accurate than GRPO",
        "text",
        measure="accuracy",
        side="above",
        factor="staleness",
        along="greatest",
    ),
    _GRPO(
        "Over the learning rates a smaller share of GMPO's runs collapses than of GRPO's",
        "asked here",
        measure="collapsed",
        side="below",
        factor="lr",
        along="mean over",
    ),
    _GRPO(
        "At the greatest learning rate GMPO ends more accurate than GRPO",
        "asked here",
        measure="accuracy",
        side="above",
        factor="lr",
        along="greatest",
    ),
)


def verdicts(claim: Claim, records: Records) -> list[Verdict]:
    """One for each place of the study where the claim can be put; empty where the study has not the objectives or the factor for it."""
    if not asks(records.study, claim):
        return []
    return [
        Verdict(
            claim,
            where,
            _difference(claim, claim.measure, records, taken),
            _difference(claim, claim.second, records, taken) if claim.second else None,
        )
        for where, taken in _places(claim, records.study)
    ]


def asks(study: Study, claim: Claim) -> bool:
    """Whether the claim can be put to a study."""
    (_, objectives), *others = study.factors.items()
    return {claim.ours, claim.theirs} <= set(objectives) and (not claim.factor or numeric(dict(others).get(claim.factor, ())))


def numeric(levels: tuple[str, ...]) -> bool:
    """Whether a factor's levels are numbers, so that they have an order and a greatest."""
    try:
        return len({float(level) for level in levels}) > 1
    except ValueError:
        return False


def _places(claim: Claim, study: Study) -> Iterator[tuple[str, Weighted]]:
    """(name, what is put together there) of each place."""
    factors = dict(list(study.factors.items())[1:])
    held = {name: levels for name, levels in factors.items() if name != claim.factor}
    for chosen in itertools.product(*held.values()):
        fixed = dict(zip(held, chosen, strict=True))
        where = [f"{name} = {level}" for name, level in fixed.items()]
        if not claim.factor:
            yield ", ".join(where), [(1.0, chosen)]
            continue
        how, weights = _taken(claim, factors[claim.factor])
        taken = [(weight, tuple({**fixed, claim.factor: level}[name] for name in factors)) for level, weight in weights.items()]
        yield ", ".join([*where, how]), taken


def _taken(claim: Claim, levels: Sequence[str]) -> tuple[str, dict[str, float]]:
    """How the levels of the claim's factor are put together: (name, {level: what it counts for})."""
    least, greatest = min(levels, key=float), max(levels, key=float)
    if claim.along == "mean over":
        return f"mean over {claim.factor}", dict.fromkeys(levels, 1 / len(levels))
    if claim.along == "greatest":
        return f"{claim.factor} = {greatest}", {greatest: 1.0}
    return f"{claim.factor} {greatest} less {least}", {greatest: 1.0, least: -1.0}


def _difference(claim: Claim, measure: str, records: Records, taken: Weighted) -> Paired | None:
    """Of the seeds that have a figure at every combination of levels."""
    apart = [
        (weight, differences(MEASURES[measure], records.runs[(claim.ours, *levels)], records.runs[(claim.theirs, *levels)]))
        for weight, levels in taken
    ]
    return paired({seed: math.fsum(weight * each.get(seed, math.nan) for weight, each in apart) for seed in apart[0][1]})
