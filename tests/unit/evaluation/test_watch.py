"""The watcher, with versions that come and go as a script says."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from actors.errors import EngineError, GmpoError, UnknownVersion, UsageError
from services.evaluation.results import Result
from services.evaluation.watch import Watcher
from tests.unit.evaluation.test_results import result


class Over(Exception):
    """The script has ended."""


class Script:
    """`looks` are what the endpoint has at each look; what is raised instead of a list is raised. Every wait goes to the next look."""

    def __init__(self, *looks: list[int] | Exception) -> None:
        self.looks, self.at = looks, 0
        self.evaluated: list[int] = []
        self.during: Callable[[int], None] = lambda step: None

    async def versions(self) -> list[int]:
        look = self.looks[self.at]
        if isinstance(look, Exception):
            raise look
        return look

    def is_done(self, step: int) -> bool:
        return step in self.evaluated

    async def evaluate(self, step: int) -> Result:
        self.during(step)
        self.evaluated.append(step)
        return result(step, 0.5)

    async def wait(self, seconds: float) -> None:
        self.at += 1
        if self.at == len(self.looks):
            raise Over

    async def play(self, *, every: int = 10, last: int = 35) -> list[int]:
        with pytest.raises(Over):
            await Watcher(self, every=every, last=last, poll_s=5, wait=self.wait).run()
        return self.evaluated


async def test_every_nth_version_and_the_last_is_evaluated_once() -> None:
    assert await Script([0], [0, 5], [0, 5, 10], [0, 5, 10], [5, 10, 35], [5, 10, 35]).play() == [0, 10, 35]


async def test_of_several_the_newest_is_next_and_the_others_follow() -> None:
    script = Script([10, 20])

    def during(step: int) -> None:
        if step == 20:
            script.looks = ([10, 20, 30],)  # came meanwhile

    script.during = during
    assert await script.play() == [20, 30, 10]


async def test_an_endpoint_that_is_away_is_waited_for() -> None:
    assert await Script(EngineError("away"), [10], EngineError("away"), [10, 20]).play() == [10, 20]


async def test_an_evaluation_that_was_cut_off_is_taken_up_again() -> None:
    script = Script([10], [10])

    def during(step: int) -> None:
        if script.at == 0:
            raise EngineError("away")

    script.during = during
    assert await script.play() == [10]


@pytest.mark.parametrize("error", [UnknownVersion("gone"), UsageError("another process is at it")])
async def test_a_version_that_cannot_be_had_is_passed_over_once_and_for_all(error: GmpoError) -> None:
    tried: list[int] = []
    script = Script([10, 20], [10, 20])

    def during(step: int) -> None:
        tried.append(step)
        if step == 20:
            raise error

    script.during = during
    assert await script.play() == [10]
    assert tried == [20, 10]


async def test_a_key_that_is_refused_ends_it() -> None:
    with pytest.raises(UsageError, match="no such key"):
        await Watcher(Script(UsageError("no such key")), every=1, last=1, poll_s=5).run()
