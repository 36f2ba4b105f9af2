"""One evaluation with a policy and a grader that do as they are told."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from actors.errors import EngineError
from actors.generation.spec import Sampling
from actors.prompts.problems import Rejected
from actors.reward.config import RewardConfig
from actors.types import GroupMeta, Outcome, Prompt, Rollout, RolloutGroup, Span, Verdict
from services.evaluation.answers import AnswerLog, Header
from services.evaluation.ask import Pinned
from services.evaluation.config import SuiteConfig
from services.evaluation.evaluate import Notify, answer, missing, summed_up
from services.evaluation.exam import Exam, ProblemSet

PINNED = Pinned(12, "w" * 12)
HEADER = Header("sums", "d", 12, "w" * 64)
OUTCOMES = {"right": Outcome.RIGHT, "wrong": Outcome.WRONG, "timeout": Outcome.TIMEOUT}


def exam(*, samples: int = 1, pass_at: tuple[int, ...] = (1,), **sets: int) -> Exam:
    """Sets of this many prompts, of 10 tokens each."""
    source = {"source": {"type": "file", "path": "x.jsonl"}}
    temperature = 1.0 if samples > 1 else 0.0
    suite = SuiteConfig.model_validate(
        {"name": "sums", "sets": dict.fromkeys(sets, source), "samples": samples, "pass_at": pass_at, "temperature": temperature}
    )
    prompts = {name: tuple(prompt(f"{name}#{number}") for number in range(count)) for name, count in sets.items()}
    problem_sets = {name: ProblemSet(chosen, Rejected()) for name, chosen in prompts.items()}
    return Exam(suite, problem_sets, Sampling(samples, temperature, 1.0, 0, 16), RewardConfig(), 4096, "d")


def prompt(row: str, length: int = 10) -> Prompt:
    return Prompt(0, "math", np.zeros(length, np.int32), "4", "2+2=", row)


def rollout(text: str, finish: str = "stop") -> Rollout:
    return Rollout(np.zeros(4, np.int32), np.zeros(4, np.float32), np.ones(4, np.bool_), (Span(12, 0, 4),), finish, text)


class Policy:
    """Answers each row by its text; one that has none raises. Counts how many it is asked at once."""

    def __init__(self, **answers: Sequence[str]) -> None:
        self.answers = answers
        self.asked: list[str] = []
        self.at_once = self.most = 0
        self.lengths: list[int] = []

    async def ask(self, version: Pinned, prompt: Sequence[int], sampling: Sampling, seed: str) -> tuple[Rollout, ...]:
        assert version == PINNED
        row = seed.split("/")[2]
        self.asked.append(row)
        self.lengths.append(sampling.max_tokens)
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        if row.replace("#", "_") not in self.answers:
            raise EngineError(f"no answer to {row}")
        return tuple(rollout(text) for text in self.answers[row.replace("#", "_")])


class Grader:
    """A response is its own verdict."""

    async def verify(self, group: RolloutGroup) -> tuple[GroupMeta, RolloutGroup]:
        outcomes = [OUTCOMES.get(rollout.text, Outcome.UNPARSEABLE) for rollout in group.rollouts]
        verdicts = tuple(Verdict(float(outcome is Outcome.RIGHT), outcome) for outcome in outcomes)
        return GroupMeta(0, (12, 12), ()), replace(group, verdicts=verdicts)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "step-12.jsonl"


async def run(asked: Exam, policy: Policy, path: Path, *, concurrency: int = 2, notify: Notify = lambda text: None) -> AnswerLog:
    with AnswerLog(path, HEADER) as log:
        await answer(asked, PINNED, policy, Grader(), log, concurrency=concurrency, notify=notify)
    return log


async def test_going_on_asks_only_what_is_missing(path: Path) -> None:
    asked = exam(a=4)
    first = Policy(a_0=["right"], a_1=["wrong"])
    with pytest.raises(EngineError, match="a#2"):
        await run(asked, first, path, concurrency=1)
    second = Policy(a_2=["right"], a_3=["right"])
    log = await run(asked, second, path)
    assert (first.asked, second.asked) == (["a#0", "a#1", "a#2"], ["a#2", "a#3"])
    assert summed_up(asked, HEADER, log).overall.pass_at[1].value == 0.75
    assert missing(asked, log) == []


async def test_no_more_problems_are_under_way_than_asked_for(path: Path) -> None:
    policy = Policy(**{f"a_{number}": ["right"] for number in range(12)})
    await run(exam(a=12), policy, path, concurrency=3)
    assert (policy.most, policy.at_once, len(policy.asked)) == (3, 0, 12)


async def test_pass_at_k_and_what_failed_to_be_graded(path: Path) -> None:
    asked = exam(samples=4, pass_at=(2, 4), a=3)
    policy = Policy(
        a_0=["right", "wrong", "wrong", "wrong"], a_1=["timeout", "right", "right", "?"], a_2=["timeout", "timeout", "?", "wrong"]
    )
    result = summed_up(asked, HEADER, await run(asked, policy, path))
    found = result.overall
    assert (found.problems, found.samples, found.ungraded) == (3, 4, 3)
    assert {k: round(estimate.value, 6) for k, estimate in found.pass_at.items()} == {
        1: 0.25,  # (1/4 + 2/4 + 0) / 3: an answer that was not graded counts as wrong
        2: round((1 / 2 + 5 / 6) / 3, 6),
        4: round(2 / 3, 6),
    }
    assert found.pass_at[1].low < 0.25 < found.pass_at[1].high
    assert (found.score, found.length, found.truncated) == (0.25, 4.0, 0.0)
    assert (result.suite, result.step, result.weights, result.digest) == ("sums", 12, "w" * 64, "d")


async def test_the_mean_is_over_sets_not_over_problems(path: Path) -> None:
    asked = exam(small=1, large=3)
    policy = Policy(small_0=["right"], large_0=["wrong"], large_1=["wrong"], large_2=["wrong"])
    result = summed_up(asked, HEADER, await run(asked, policy, path))
    assert {name: one.pass_at[1].value for name, one in result.sets.items()} == {"small": 1.0, "large": 0.0}
    assert (result.overall.pass_at[1].value, result.overall.score, result.overall.problems) == (0.5, 0.25, 4)


async def test_an_answer_gets_the_room_that_the_question_leaves(path: Path) -> None:
    asked = exam(a=3)
    lengths = {"a#0": 10, "a#1": 4090, "a#2": 4096}
    longer = ProblemSet(tuple(prompt(row, length) for row, length in lengths.items()), Rejected())
    asked = replace(asked, sets={"a": longer})
    policy = Policy(a_0=["right"], a_1=["right"])
    log = await run(asked, policy, path, concurrency=1)
    assert (policy.asked, policy.lengths) == (["a#0", "a#1"], [16, 6])
    overflown = log.answered["a", "a#2"].samples[0]
    assert (overflown.outcome, overflown.finish_reason, overflown.tokens) == (Outcome.UNPARSEABLE, "length", 0)
    assert summed_up(asked, HEADER, log).overall.pass_at[1].value == pytest.approx(2 / 3)


async def test_progress_is_told_about_ten_times(path: Path) -> None:
    told: list[str] = []
    policy = Policy(**{f"a_{number}": ["right"] for number in range(40)})
    await run(exam(a=40), policy, path, notify=told.append)
    assert told == [f"{count} of 40 problems" for count in range(4, 41, 4)]
