"""Broken verifiers end the run by name; hostile responses do not."""

from __future__ import annotations

import pickle
import sys

import numpy as np
import pytest

from actors.errors import VerifierError, VerifiersBroken
from actors.reward.breaker import MIN_SEEN, WINDOW, Breaker
from actors.reward.config import FunctionPart, RewardConfig
from actors.reward.pool import Verifier
from actors.types import Answer, Outcome, Prompt, Rollout, RolloutGroup


def refuses(task: str, response: str, answer: Answer) -> float:
    """A reward function with a fault in it."""
    raise RuntimeError("the judge is not installed")


def test_it_breaks_once_more_than_the_share_crashed() -> None:
    breaker = Breaker(0.5)
    breaker.record([Outcome.RIGHT] * 100 + [Outcome.CRASH] * 100, "lost a library")
    with pytest.raises(VerifiersBroken, match=r"101 of the last 200 .*reward.max_fault_share: 0.5.*lost a library"):
        breaker.record([Outcome.CRASH], "lost a library")


def test_it_waits_until_it_has_seen_enough() -> None:
    breaker = Breaker(0.5)
    breaker.record([Outcome.CRASH] * (MIN_SEEN - 1))
    with pytest.raises(VerifiersBroken, match=f"{MIN_SEEN} of the last {MIN_SEEN}"):
        breaker.record([Outcome.CRASH])


def test_old_crashes_are_forgotten() -> None:
    breaker = Breaker(0.5)
    breaker.record([Outcome.RIGHT] * WINDOW + [Outcome.CRASH] * (WINDOW // 2))
    breaker.record([Outcome.WRONG] * WINDOW)
    breaker.record([Outcome.CRASH] * (WINDOW // 2))


@pytest.mark.parametrize("outcome", [Outcome.TIMEOUT, Outcome.OOM, Outcome.WRONG, Outcome.UNPARSEABLE])
def test_what_a_response_can_bring_about_never_breaks_it(outcome: Outcome) -> None:
    Breaker(0.01).record([outcome] * WINDOW)


def test_a_share_of_one_never_breaks() -> None:
    Breaker(1.0).record([Outcome.CRASH] * WINDOW)


def test_the_error_crosses_process_borders() -> None:
    assert str(pickle.loads(pickle.dumps(VerifiersBroken("51 of 100")))) == "51 of 100"


def group() -> RolloutGroup:
    one = np.ones(1, dtype=np.bool_)
    rollouts = tuple(Rollout(np.zeros(1, np.int32), np.zeros(1, np.float32), one, (), "stop", str(n)) for n in range(MIN_SEEN))
    return RolloutGroup(Prompt(0, "math", np.zeros(1, np.int32), "5", "Q", "test#1"), rollouts)


async def test_a_broken_reward_function_ends_verification_with_its_own_words() -> None:
    verifier = Verifier(RewardConfig(parts=(FunctionPart(type="function", path=f"{__name__}:refuses"),), workers=1), tasks=())
    try:
        with pytest.raises(VerifiersBroken, match=f"{MIN_SEEN} of the last {MIN_SEEN} .*RuntimeError: the judge is not installed"):
            await verifier.verify(group())
    finally:
        await verifier.close()


async def test_children_that_do_not_start_end_verification(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    verifier = Verifier(RewardConfig(workers=1), tasks=())
    errors = []
    for _ in range(2):
        with pytest.raises(VerifierError, match="did not start") as caught:
            await verifier.verify(group())
        errors.append(type(caught.value))
    await verifier.close()
    assert errors == [VerifierError, VerifiersBroken]
