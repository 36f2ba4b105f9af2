"""Responses near the token limit pay for it: by the formula, and on their way through the pool."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from actors.reward.config import FunctionPart, OverlongConfig, RewardConfig
from actors.reward.overlong import shaped
from actors.reward.pool import Verifier
from actors.types import Answer, Outcome, Prompt, Rollout, RolloutGroup, Verdict

DAPO = OverlongConfig(limit=20_480, buffer=4_096)


def likes_it(task: str, response: str, answer: Answer) -> Verdict:
    """Everything is right, but what breaks the verifier."""
    return Verdict(0.0, Outcome.TIMEOUT) if response == "broken" else Verdict(1.0, Outcome.RIGHT)


def cost(length: int, config: OverlongConfig = DAPO) -> float:
    verdict = shaped(Verdict(1.0, Outcome.RIGHT, "5", {"verifier": 1.0}), length, config)
    assert (verdict.outcome, verdict.extracted, verdict.parts["verifier"]) == (Outcome.RIGHT, "5", 1.0)
    assert verdict.score == 1.0 + config.penalty * verdict.parts["overlong"]
    return verdict.score - 1.0


@pytest.mark.parametrize(
    ("length", "expected"),
    [(0, 0), (16_384, 0), (16_385, -1 / 4_096), (18_432, -0.5), (20_479, -4_095 / 4_096), (20_480, -1), (30_000, -1)],
)
def test_the_punishment_grows_over_the_buffer(length: int, expected: float) -> None:
    assert cost(length) == pytest.approx(expected, abs=1e-12)


@given(st.integers(1, 500), st.integers(1, 500), st.floats(0.01, 5), st.integers(0, 1200))
def test_it_never_pays_to_be_longer_and_never_costs_more_than_the_penalty(buffer: int, extra: int, penalty: float, length: int) -> None:
    config = OverlongConfig(limit=buffer + extra, buffer=buffer, penalty=penalty)
    assert -penalty - 1e-9 <= cost(length + 1, config) <= cost(length, config) <= 0
    assert cost(length + 1, config) - cost(length, config) >= -penalty / buffer - 1e-9


def test_a_response_that_was_not_graded_is_left_alone() -> None:
    verdict = Verdict(0.0, Outcome.TIMEOUT)
    assert shaped(verdict, 30_000, DAPO) is verdict


def test_the_name_of_the_part_is_taken() -> None:
    with pytest.raises(ValidationError, match="overlong"):
        RewardConfig.model_validate({"parts": [{"type": "verifier", "name": "overlong"}], "overlong": {"limit": 9, "buffer": 3}})


def rollout(text: str, length: int) -> Rollout:
    ones = np.ones(length, dtype=np.bool_)
    return Rollout(np.zeros(length, np.int32), np.zeros(length, np.float32), ones, (), "stop", text)


async def test_the_pool_counts_the_tokens_of_each_response() -> None:
    """Equal texts are graded once, and need not have equally many tokens."""
    config = RewardConfig(
        parts=(FunctionPart(type="function", path=f"{__name__}:likes_it"),),
        workers=1,
        overlong=OverlongConfig(limit=10, buffer=4, penalty=2),
    )
    group = RolloutGroup(
        Prompt(3, "math", np.arange(7, dtype=np.int32), "5", "Q", "test#1"),
        (rollout("same", 6), rollout("same", 8), rollout("same", 10), rollout("broken", 10)),
    )
    verifier = Verifier(config, tasks=())
    try:
        meta, verified = await verifier.verify(group)
    finally:
        await verifier.close()
    assert meta.scores == (1.0, 0.0, -1.0, 0.0)
    assert meta.outcomes == (Outcome.RIGHT, Outcome.RIGHT, Outcome.RIGHT, Outcome.TIMEOUT)
    assert meta.parts == {"likes_it": 1.0, "overlong": -0.5}
    assert verified.verdicts is not None and [verdict.score for verdict in verified.verdicts] == list(meta.scores)
    assert (meta.prompt_length, meta.lengths) == (7, (6, 8, 10, 10))
