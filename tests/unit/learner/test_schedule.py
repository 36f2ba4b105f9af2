from __future__ import annotations

from itertools import pairwise

import pytest

from actors.learner.config import AdamWConfig
from actors.learner.schedule import learning_rate


def rates(total: int = 12, **config: object) -> list[float]:
    optimizer = AdamWConfig.model_validate({"lr": 1.0, **config})
    return [learning_rate(optimizer, update, total) for update in range(total)]


def test_a_constant_rate_stays() -> None:
    assert rates() == [1.0] * 12


def test_warm_up_rises_in_equal_steps_and_its_first_update_already_learns() -> None:
    assert rates(warmup_updates=4)[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_falling_rate_starts_whole_and_ends_at_lr_end(schedule: str) -> None:
    found = rates(schedule=schedule, warmup_updates=2, lr_end=0.1)
    assert found[2] == pytest.approx(1.0) and found[-1] == pytest.approx(0.1)
    assert all(after < before for before, after in pairwise(found[2:]))


def test_linear_and_cosine_meet_half_way() -> None:
    linear, cosine = rates(total=11, schedule="linear"), rates(total=11, schedule="cosine")
    assert linear[5] == pytest.approx(0.5) == pytest.approx(cosine[5])
    assert cosine[2] > linear[2] and cosine[8] < linear[8]


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_run_shorter_than_its_warm_up_and_updates_past_the_end_are_harmless(schedule: str) -> None:
    optimizer = AdamWConfig.model_validate({"lr": 1.0, "schedule": schedule, "warmup_updates": 5})
    assert 0 <= learning_rate(optimizer, 3, 2) <= 1
    assert learning_rate(optimizer, 50, 20) == pytest.approx(0.0)
