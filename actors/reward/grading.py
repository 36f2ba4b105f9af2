"""The reward as the recipe composes it: a weighted sum of verifiers and functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from actors.errors import VerifierError
from actors.reward import functions, verifiers
from actors.reward.code import default_jail
from actors.reward.config import RewardPart, VerifierPart
from actors.reward.functions import Sample, Scorer
from actors.reward.jail import Jail
from actors.types import Verdict


class Grader:
    """Grades samples by the sum of its parts. Runs inside a child: a part may take forever, or the process with it.

    `programs` is where code is run, asked for when there is some.
    """

    def __init__(self, parts: Sequence[RewardPart], programs: Callable[[], Jail] = default_jail) -> None:
        self._terms = [(part.label, part.weight, _scorer(part, programs)) for part in parts]

    def grade(self, sample: Sample) -> Verdict:
        """The weighted sum; outcome and extracted answer are the first applying part's.

        One part without a grade leaves the sum unknown, so its verdict is the whole verdict.
        """
        first: Verdict | None = None
        total, parts = 0.0, {}
        for label, weight, scorer in self._terms:
            verdict = scorer(sample)
            if verdict is None:
                continue
            if not verdict.graded:
                return replace(verdict, score=0.0, parts={})
            if not math.isfinite(verdict.score):
                raise VerifierError(f"reward part {label!r} returned {verdict.score}")
            first = first or verdict
            total += weight * verdict.score
            parts[label] = verdict.score
        if first is None:
            raise VerifierError("no reward part applies to this response")
        return Verdict(total, first.outcome, first.extracted, parts)


def _scorer(part: RewardPart, programs: Callable[[], Jail]) -> Scorer:
    if not isinstance(part, VerifierPart):
        return functions.load(part.path, part.style)
    task = part.task
    return lambda sample: verifiers.verify(task or sample.task, sample.response, sample.answer, columns=sample.columns, programs=programs)
