"""A queue whose process dies, begins anew, or falls silent."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from ray.exceptions import RayActorError

from actors.errors import QueueLost
from actors.replay.messages import Belongings
from services.config import HealthConfig
from services.training import guard
from services.training.guard import Guard
from tests.unit.training.handles import Handle

OWN = Belongings(epoch=7)


class Queue:
    """Its process dies when `dies` is set; another takes its place, which knows nothing. It is silent while `answers` is not set."""

    def __init__(self) -> None:
        self.given: list[Belongings] = []
        self.dies, self.closes, self.answers = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.answers.set()
        self.known = True

    async def closed(self) -> None:
        if not self.known:
            raise QueueLost("it knows nothing")
        ends = [asyncio.ensure_future(event.wait()) for event in (self.dies, self.closes)]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            end.cancel()
        if self.dies.is_set():
            self.dies.clear()
            self.known = False
            raise RayActorError

    async def begin_with(self, own: Belongings) -> None:
        self.given.append(own)
        self.known = True

    async def metrics(self) -> dict[str, float]:
        await self.answers.wait()
        return {}


def guarding(queue: Queue, said: list[str], **health: float) -> asyncio.Task[None]:
    handle: Any = Handle(queue)
    return asyncio.ensure_future(Guard(handle, lambda: OWN, HealthConfig.model_validate(health), said.append).watch())


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "AGAIN_S", 0.0)


async def test_a_queue_is_given_what_it_needs_after_every_death_also_if_nobody_saw_it() -> None:
    queue, said = Queue(), list[str]()
    queue.known = False  # it died before anyone watched
    watching = guarding(queue, said)
    for deaths in range(1, 4):
        while len(queue.given) < deaths:
            await asyncio.sleep(0)
        queue.dies.set()
    while len(queue.given) < 4:
        await asyncio.sleep(0)
    queue.closes.set()
    await watching
    assert queue.given == [OWN] * 4 and len(said) == 3


async def test_a_silent_queue_is_ended_and_one_that_answers_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    queue, said, ended = Queue(), list[str](), list[Any]()

    async def end(process: Any) -> None:
        ended.append(process)
        queue.answers.set()
        queue.dies.set()

    monkeypatch.setattr(guard, "end_process", end)
    watching = guarding(queue, said, every_s=0.01, answer_s=0.05)
    await asyncio.sleep(0.1)
    assert not ended
    queue.answers.clear()
    while not queue.given:
        await asyncio.sleep(0.01)
    assert ended == [(0, "here")] and "does not answer" in said[0]
    queue.closes.set()
    await watching
