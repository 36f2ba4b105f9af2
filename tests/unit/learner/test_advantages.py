from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import TypeAdapter

from actors.learner.advantages import build
from actors.learner.config import AdvantageConfig, KlConfig
from actors.types import GRADED, GroupMeta, Outcome

R, W, U, T, C = Outcome.RIGHT, Outcome.WRONG, Outcome.UNPARSEABLE, Outcome.TIMEOUT, Outcome.CRASH
CONFIG: TypeAdapter[AdvantageConfig] = TypeAdapter(AdvantageConfig)

GROUPWISE = ({"type": "z_score"}, {"type": "z_score", "ddof": 0}, {"type": "mean"}, {"type": "rloo"}, {"type": "reinforce_pp"})
PLAIN = {"type": "reinforce_pp", "baseline": False}
EVERY = (*GROUPWISE, PLAIN)


def group(scores: list[float], outcomes: list[Outcome] | None = None, kl: list[float] | None = None) -> GroupMeta:
    return GroupMeta(0, (0, 0), (1,) * len(scores), tuple(scores), tuple(outcomes or [W] * len(scores)), kl=tuple(kl or ()))


def advantages(config: dict[str, Any], *groups: GroupMeta, kl: KlConfig | None = None) -> list[list[float]]:
    return [row.tolist() for row in build(CONFIG.validate_python(config), kl or KlConfig())(groups)]


@st.composite
def steps(draw: st.DrawFn) -> list[GroupMeta]:
    rewards = st.one_of(st.sampled_from([0.0, 1.0, 0.1, -1.0]), st.floats(-3, 3).map(lambda value: round(value, 3)))
    sizes = st.integers(1, 6)
    return [
        group(
            draw(st.lists(rewards, min_size=size, max_size=size)),
            draw(st.lists(st.sampled_from([R, W, U, T, C]), min_size=size, max_size=size)),
        )
        for size in draw(st.lists(sizes, min_size=1, max_size=6))
    ]


def graded(meta: GroupMeta, values: NDArray[np.float64] | list[float] | tuple[float, ...]) -> NDArray[np.float64]:
    return np.asarray([value for value, outcome in zip(values, meta.outcomes, strict=True) if outcome in GRADED])


# --- the formulas ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ddof", "std"), [(0, np.sqrt(3) / 4), (1, 0.5)])
def test_z_scores_standardize_over_the_group(ddof: int, std: float) -> None:
    expected = np.asarray([0.75, -0.25, -0.25, -0.25]) / std
    found = advantages({"type": "z_score", "ddof": ddof}, group([1, 0, 0, 0], [R, W, U, W]))
    np.testing.assert_allclose(found, [expected], rtol=1e-7)


def test_the_epsilon_is_added_to_the_standard_deviation() -> None:
    assert advantages({"type": "z_score", "ddof": 0, "epsilon": 0.5}, group([1, 0])) == [[0.5, -0.5]]
    assert advantages({"type": "reinforce_pp", "epsilon": 0.5}, group([1, 0])) == [[0.5, -0.5]]


def test_the_mean_only_is_taken_off() -> None:
    assert advantages({"type": "mean"}, group([3, 1, 0.5, 3.5])) == [[1, -1, -1.5, 1.5]]


def test_leave_one_out_compares_each_with_the_mean_of_the_others() -> None:
    rewards = [3.0, 1.0, 0.5, 3.5]
    others = [np.mean(rewards[:index] + rewards[index + 1 :]) for index in range(4)]
    np.testing.assert_allclose(advantages({"type": "rloo"}, group(rewards)), [np.subtract(rewards, others)], rtol=1e-12)


def test_reinforce_whitens_over_the_whole_step() -> None:
    metas = group([1, 0, 0, 0]), group([0.5, 0.5]), group([2, 7, 9], [R, W, T])
    centred = np.asarray([0.75, -0.25, -0.25, -0.25, 0, 0, -2.5, 2.5])
    found = np.concatenate(advantages({"type": "reinforce_pp"}, *metas))
    np.testing.assert_allclose(np.delete(found, 8), centred / centred.std(), rtol=1e-7)

    rewards = np.asarray([1, 0, 0, 0, 0.5, 0.5, 2, 7])
    found = np.concatenate(advantages(PLAIN, *metas))
    np.testing.assert_allclose(np.delete(found, 8), (rewards - rewards.mean()) / rewards.std(), rtol=1e-7)


def test_without_a_baseline_equal_rewards_still_say_which_group_did_better() -> None:
    assert advantages(PLAIN, group([1, 1]), group([0, 0])) == [[pytest.approx(1)] * 2, [pytest.approx(-1)] * 2]
    assert advantages(PLAIN, group([1]), group([0, 5], [W, T])) == [[pytest.approx(1)], [pytest.approx(-1), 0]]
    assert advantages(PLAIN, group([0.1] * 3), group([0.1] * 4)) == [[0] * 3, [0] * 4]


# --- what holds for every estimator ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", EVERY, ids=str)
@given(metas=steps())
def test_masked_responses_leave_the_statistics_and_get_nothing(config: dict[str, Any], metas: list[GroupMeta]) -> None:
    found = advantages(config, *metas)
    alone = advantages(config, *(group(list(graded(meta, meta.scores))) for meta in metas))
    for meta, row, kept in zip(metas, found, alone, strict=True):
        assert list(graded(meta, row)) == kept
        assert all(value == 0 for value, outcome in zip(row, meta.outcomes, strict=True) if outcome not in GRADED)


@pytest.mark.parametrize("config", EVERY, ids=str)
@given(metas=steps(), shift=st.floats(-2, 2))
def test_advantages_sum_to_nothing_follow_the_rewards_and_ignore_a_shift(
    config: dict[str, Any], metas: list[GroupMeta], shift: float
) -> None:
    found = advantages(config, *metas)
    bodies = [graded(meta, row) for meta, row in zip(metas, found, strict=True)]
    for body in [np.concatenate(bodies)] if config == PLAIN else bodies:
        assert abs(body.sum()) <= 1e-9 * (1 + np.abs(body).sum())
    for meta, row in zip(metas, found, strict=True):
        order = np.argsort(graded(meta, meta.scores), kind="stable")
        assert (np.diff(graded(meta, row)[order]) >= 0).all()
    moved = advantages(config, *(group([score + shift for score in meta.scores], list(meta.outcomes)) for meta in metas))
    for before, after in zip(found, moved, strict=True):
        np.testing.assert_allclose(after, before, atol=1e-6)


@pytest.mark.parametrize("config", [{"type": "z_score"}, {"type": "reinforce_pp"}, PLAIN], ids=str)
@given(metas=steps(), factor=st.floats(0.5, 4))
def test_whitened_advantages_ignore_the_scale_of_the_rewards(config: dict[str, Any], metas: list[GroupMeta], factor: float) -> None:
    found = advantages(config, *metas)
    scaled = advantages(config, *(group([factor * score for score in meta.scores], list(meta.outcomes)) for meta in metas))
    for before, after in zip(found, scaled, strict=True):
        np.testing.assert_allclose(after, before, atol=1e-4)


@pytest.mark.parametrize("config", GROUPWISE, ids=str)
@pytest.mark.parametrize(
    ("scores", "outcomes"),
    [([0.1, 0.1, 0.1], [R, R, R]), ([0, 0, 7], [W, W, T]), ([1, 0, 0], [R, T, C]), ([1, 0], [T, C]), ([1e20, 1e20], [R, R])],
)
def test_nothing_to_compare_gives_zero_and_never_a_division_by_it(
    config: dict[str, Any], scores: list[float], outcomes: list[Outcome]
) -> None:
    assert advantages(config, group(scores, outcomes), group([1, 0]))[0] == [0] * len(scores)
    assert advantages(config, group(scores, outcomes)) == [[0] * len(scores)]


@pytest.mark.parametrize("config", EVERY, ids=str)
def test_a_step_without_a_single_graded_response_gets_nothing(config: dict[str, Any]) -> None:
    assert advantages(config, group([1, 0], [T, C]), group([2, 0, 1], [T, T, T])) == [[0, 0], [0, 0, 0]]


def test_a_difference_that_is_only_rounding_weighs_nothing() -> None:
    assert np.abs(advantages({"type": "z_score"}, group([0.1 + 0.2, 0.3]))).max() < 1e-8


@pytest.mark.parametrize("config", EVERY, ids=str)
def test_estimators_cross_process_borders(config: dict[str, Any]) -> None:
    estimator = build(CONFIG.validate_python(config), KlConfig())
    again = pickle.loads(pickle.dumps(estimator))
    metas = [group([1, 0, 0.5]), group([0, 2])]
    assert [row.tolist() for row in again(metas)] == [row.tolist() for row in estimator(metas)]


# --- KL in the reward ------------------------------------------------------------------------------------------------------------


def test_kl_is_taken_off_the_rewards_before_anything_is_compared() -> None:
    meta = group([1, 0, 1, 9], [R, W, R, T], kl=[2.0, 0.0, 6.0, 50.0])
    found = advantages({"type": "mean"}, meta, kl=KlConfig(coefficient=0.25, place="reward"))
    assert found == advantages({"type": "mean"}, group([0.5, 0, -0.5, 9], [R, W, R, T])) == [[0.5, 0, -0.5, 0]]


def test_kl_makes_equal_rewards_unequal() -> None:
    found = advantages({"type": "z_score"}, group([1, 1], kl=[1.0, 3.0]), kl=KlConfig(coefficient=0.1, place="reward"))
    assert found[0][0] > 0 > found[0][1]


@pytest.mark.parametrize("kl", [KlConfig(coefficient=0.5, place="loss"), KlConfig(place="reward")])
def test_kl_that_is_paid_elsewhere_or_not_at_all_leaves_the_rewards_alone(kl: KlConfig) -> None:
    assert advantages({"type": "mean"}, group([1, 0], kl=[2.0, 9.0]), kl=kl) == [[0.5, -0.5]]


def test_rewards_that_should_pay_for_a_kl_nobody_measured_are_refused() -> None:
    with pytest.raises(ValueError, match="group 0: 2 responses and 0 KL"):
        advantages({"type": "mean"}, group([1, 0]), kl=KlConfig(coefficient=0.5, place="reward"))
