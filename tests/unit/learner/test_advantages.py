from __future__ import annotations

import numpy as np
import pytest

from actors.learner.advantages import GroupAdvantages
from actors.learner.config import AdvantageConfig
from actors.types import GroupMeta, Outcome

R, W, U, T, C = Outcome.RIGHT, Outcome.WRONG, Outcome.UNPARSEABLE, Outcome.TIMEOUT, Outcome.CRASH


def advantages(scores: list[float], outcomes: list[Outcome], **config: object) -> list[float]:
    meta = GroupMeta(0, (0, 0), (1,) * len(scores), tuple(scores), tuple(outcomes))
    return list(GroupAdvantages(AdvantageConfig.model_validate(config))(meta))


@pytest.mark.parametrize(("ddof", "std"), [(0, np.sqrt(3) / 4), (1, 0.5)])
def test_rewards_are_standardized_over_their_group(ddof: int, std: float) -> None:
    expected = np.asarray([0.75, -0.25, -0.25, -0.25]) / std
    np.testing.assert_allclose(advantages([1, 0, 0, 0], [R, W, U, W], ddof=ddof), expected, rtol=1e-7)


def test_without_normalization_only_the_mean_goes() -> None:
    assert advantages([3, 1, 0.5, 3.5], [R, W, W, R], normalize=False) == [1, -1, -1.5, 1.5]


def test_masked_responses_leave_the_statistics_and_get_nothing() -> None:
    found = advantages([1, 99, 0, -99, 0.5], [R, T, W, C, W])
    alone = advantages([1, 0, 0.5], [R, W, W])
    assert found == [alone[0], 0, alone[1], 0, alone[2]]


@pytest.mark.parametrize(
    ("scores", "outcomes"),
    [([0.5, 0.5, 0.5], [R, R, R]), ([0, 0, 7], [W, W, T]), ([1, 0, 0], [R, T, C]), ([1, 0], [T, C]), ([1e20, 1e20], [R, R])],
)
@pytest.mark.parametrize("ddof", [0, 1])
def test_nothing_to_compare_gives_zero_and_never_a_division_by_it(scores: list[float], outcomes: list[Outcome], ddof: int) -> None:
    assert advantages(scores, outcomes, ddof=ddof) == [0] * len(scores)


def test_a_difference_that_is_only_rounding_weighs_nothing() -> None:
    assert np.abs(advantages([0.1 + 0.2, 0.3], [R, R])).max() < 1e-8
