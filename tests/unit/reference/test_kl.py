from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from actors.reference.kl import Estimator, summed_kl
from actors.types import Rollout

ESTIMATORS: tuple[Estimator, ...] = ("k1", "k2", "k3")


def response(logprobs: NDArray[np.float64] | list[float], mask: list[bool] | None = None) -> Rollout:
    values = np.asarray(logprobs, dtype=np.float32)
    keep = np.ones(len(values), dtype=np.bool_) if mask is None else np.asarray(mask)
    return Rollout(np.zeros(len(values), dtype=np.int32), values, keep, (), "stop", "")


def kl(behaviour: list[float], reference: list[float], estimator: Estimator, mask: list[bool] | None = None) -> float:
    return summed_kl(response(behaviour, mask), np.asarray(reference, dtype=np.float32), estimator)


@pytest.mark.parametrize(
    ("estimator", "expected"), [("k1", 1.5), ("k2", 0.5 + 0.125 + 2), ("k3", np.e - 2 + np.exp(-0.5) - 0.5 + np.exp(-2) + 1)]
)
def test_the_estimates_are_summed_over_the_response(estimator: Estimator, expected: float) -> None:
    assert kl([-2, -1, -1], [-1, -1.5, -3], estimator) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_what_the_policy_did_not_sample_costs_nothing(estimator: Estimator) -> None:
    whole = kl([-2, -9, -1], [-1, -0.1, -3], estimator, [True, False, True])
    assert whole == pytest.approx(kl([-2, -1], [-1, -3], estimator))
    assert kl([], [], estimator) == kl([-1, -2], [-1, -2], estimator) == 0


def test_log_ratios_are_clamped() -> None:
    assert kl([0], [-90], "k1") == 20 and kl([0], [-90], "k2") == 200
    assert kl([-90], [0], "k3") == pytest.approx(np.exp(20) - 21)


@given(st.lists(st.tuples(st.floats(-30, 0), st.floats(-30, 0)), max_size=20))
def test_k2_and_k3_never_pay_for_moving(pairs: list[tuple[float, float]]) -> None:
    behaviour, reference = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    assert kl(behaviour, reference, "k2") >= 0 and kl(behaviour, reference, "k3") >= 0


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_the_mean_over_samples_is_the_kl(estimator: Estimator) -> None:
    """Of single tokens drawn from the behaviour policy; k2 is biased by design."""
    policy, reference = np.asarray([0.5, 0.3, 0.2]), np.asarray([0.4, 0.25, 0.35])
    tokens = np.random.default_rng(0).choice(3, 100_000, p=policy)
    found = summed_kl(response(np.log(policy)[tokens]), np.log(reference)[tokens].astype(np.float32), estimator) / len(tokens)
    assert found == pytest.approx(float(np.sum(policy * np.log(policy / reference))), rel=0.05)
