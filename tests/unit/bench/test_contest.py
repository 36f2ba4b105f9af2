from __future__ import annotations

from dataclasses import replace

import pytest

from actors.errors import GmpoError
from services.bench import contest
from services.bench.learner import Settings

TINY = Settings(model="tiny", tokens=64, length_divisor=20, ways=("bare",), threads=1, repeats=1)


def test_ways_that_do_different_work_are_not_compared() -> None:
    case = TINY.cases[0]
    contest._check_agreement(case, {"gmpo": 1.0, "bare_alone": 1.0005}, 1e-3)
    for other in (1.01, float("nan")):
        with pytest.raises(GmpoError, match="gmpo 1, bare_alone"):
            contest._check_agreement(case, {"gmpo": 1.0, "bare_alone": other}, 1e-3)


def test_a_rank_that_fails_ends_the_run_with_its_reason() -> None:
    with pytest.raises(GmpoError, match=r"a rank failed: .*float33"):
        contest.measure(replace(TINY.contest, dtype="float33"), TINY.cases)
