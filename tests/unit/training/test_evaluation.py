"""Held-out problems under which processes die, or whose node is lost, cost an evaluation no more than themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
from ray.exceptions import ObjectLostError

from actors.errors import PoisonedPrompt
from actors.types import Outcome, Prompt, Rollout, RolloutGroup, Verdict
from services.training.evaluation import evaluate
from tests.unit.recipes import tiny_recipe


class Stages:
    """Every answer is right; `trouble` is asked first, with the problem's ordinal and how often it was tried."""

    def __init__(self, trouble: Callable[[int, int], Exception | None]) -> None:
        self._trouble = trouble
        self.tries: list[int] = []

    async def run(self, prompt: Prompt, pool: Any, call: Any) -> tuple[None, asyncio.Future[RolloutGroup]]:
        self.tries.append(prompt.ordinal)
        if error := self._trouble(prompt.ordinal, self.tries.count(prompt.ordinal)):
            raise error
        rollout = Rollout(np.zeros(1, np.int32), np.zeros(1, np.float32), np.ones(1, np.bool_), (), "stop", "5")
        answer: asyncio.Future[RolloutGroup] = asyncio.get_running_loop().create_future()
        answer.set_result(RolloutGroup(prompt, (rollout,), (Verdict(1.0, Outcome.RIGHT),)))
        return None, answer


async def test_a_poisoned_problem_is_left_out_and_a_lost_one_asked_again() -> None:
    def trouble(ordinal: int, tries: int) -> Exception | None:
        if ordinal == 0:
            return PoisonedPrompt("three processes died")
        return ObjectLostError("00", None, "") if ordinal == 1 and tries == 1 else None

    problems = [Prompt(ordinal, "math", np.zeros(1, np.int32), "5", f"question {ordinal}", "") for ordinal in range(3)]
    pools: Any = SimpleNamespace(generation=None, reward=None)
    stages: Any = Stages(trouble)
    found = await evaluate(tiny_recipe(), pools, stages, problems, 7)
    assert (found.step, found.sampled, found.greedy, found.problems) == (7, 1.0, 1.0, 3)
    assert [sample["response"] for sample in found.samples] == ["", "5", "5"]
