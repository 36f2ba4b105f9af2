"""The engines in service: what the queue is told, in which order, when they are lost, come back, or cannot be sent a policy."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from actors.errors import WeightSyncError
from services.training.engines import MOST_FAILURES, Engines
from services.training.pool import Member
from tests.unit.training.handles import Handle
from tests.unit.training.members import make_pool


class Queue:
    """Keeps what it is told in `events`; the test confirms epochs and reports failed publications."""

    def __init__(self, events: list[str]) -> None:
        self._events = events
        self.confirmed = 0  # newest epoch
        self.failures: list[tuple[int, WeightSyncError] | None] = []
        self._changed = asyncio.Condition()

    async def set_engines(self, handles: list[Any], epoch: int) -> None:
        self._events.append(f"engines {epoch}: {' '.join(handle._target.name for handle in handles)}")

    async def note(self, event: str, why: str, **_: Any) -> None:
        self._events.append(f"{event}: {why}")

    async def synced(self, epoch: int) -> int:
        async with self._changed:
            await self._changed.wait_for(lambda: self.confirmed >= epoch)
            return 0

    async def next_unsynced(self, after: int) -> tuple[int, WeightSyncError] | None:
        async with self._changed:
            await self._changed.wait_for(lambda: len(self.failures) > after)
            return self.failures[after]

    async def change(self, *, confirmed: int | None = None, failed: list[tuple[int, WeightSyncError] | None] | None = None) -> None:
        async with self._changed:
            self.confirmed = self.confirmed if confirmed is None else confirmed
            self.failures += failed or []
            self._changed.notify_all()


class Service:
    """Three engines in service."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.queue = Queue(self.events)
        self.pool, _ = make_pool("a", "b", "c", events=self.events)
        self.pool.end = self._end  # type: ignore[method-assign]
        self.engines = Engines(self.pool, Handle(self.queue))

    async def _end(self, member: Member) -> None:
        self.events.append(f"end {member.handle._target.name}")


@pytest.fixture
async def service() -> Service:
    made = Service()
    await made.queue.change(confirmed=1)
    await made.engines.begin()
    made.events.clear()
    return made


def failure(engine: int | str, version: int = 3) -> WeightSyncError:
    return WeightSyncError("no bytes", engine=engine, phase="send", version=version)


async def test_all_engines_are_announced_and_have_confirmed_before_anything_is_asked_of_them() -> None:
    service = Service()
    beginning = asyncio.create_task(service.engines.begin())
    while not service.events:
        await asyncio.sleep(0)
    assert service.events == ["engines 1: a b c"] and not beginning.done()
    await service.queue.change(confirmed=1)
    await beginning
    assert service.engines.epoch == 1 and len(service.engines.handles) == 3


async def test_the_others_go_on_without_a_lost_engine(service: Service) -> None:
    await service.pool.lost(service.pool.members[1], "its process died")
    assert service.events == ["engine_lost: engine 1: its process died", "engines 2: a c"]


async def test_with_the_last_engine_nobody_is_announced_until_one_is_back(service: Service) -> None:
    for member in service.pool.members:
        await service.pool.lost(member, "gone")
    assert service.events[-1] == "engine_lost: engine 2: gone" and service.engines.epoch == 3
    await service.queue.change(confirmed=4)
    await service.pool.back(service.pool.members[2], "ready again")
    assert service.events[-2:] == ["engines 4: c", "engine_back: engine 2: ready again"]


async def test_an_engine_is_back_when_it_has_confirmed_the_present_version(service: Service) -> None:
    member = service.pool.members[0]
    await service.pool.lost(member, "gone")
    coming = asyncio.ensure_future(service.pool.back(member, "ready again"))
    while service.events[-1] != "engines 3: a b c":
        await asyncio.sleep(0)
    for _ in range(3):
        await asyncio.sleep(0)
    assert not coming.done() and not any(event.startswith("engine_back") for event in service.events)
    await service.queue.change(confirmed=3)
    await coming
    assert service.events[-1] == "engine_back: engine 0: ready again"


async def test_the_engine_that_a_failed_publication_names_is_ended_and_the_others_are_sent_it_again(service: Service) -> None:
    await service.queue.change(failed=[(1, failure(1)), None])
    await service.engines.follow()
    assert service.events == ["end b", "engines 2: a c"]
    await service.pool.lost(service.pool.members[1], "its process died")
    assert service.events[2:] == ["engine_lost: engine 1: its process died"]  # no second announcement


async def test_where_nobody_is_named_all_are_sent_everything_again(service: Service) -> None:
    await service.queue.change(failed=[(1, failure("all")), None])
    await service.engines.follow()
    assert service.events == ["engines 2: a b c"]


async def test_a_failure_among_engines_that_are_no_longer_the_set_ends_the_culprit_only(service: Service) -> None:
    await service.pool.lost(service.pool.members[0], "gone")  # epoch 2: b c
    service.events.clear()
    await service.queue.change(failed=[(1, failure(0)), (1, failure(1)), None])
    await service.engines.follow()
    assert service.events == ["end b"]  # a is gone already; the set of epoch 1 is asked for nothing more


async def test_the_only_engine_that_fails_is_ended_and_waited_for(service: Service) -> None:
    for member in service.pool.members[1:]:
        await service.pool.lost(member, "gone")
    service.events.clear()
    await service.queue.change(failed=[(3, failure(0)), None])
    await service.engines.follow()
    assert service.events == ["end a"]


async def test_a_version_that_cannot_be_published_ends_the_run(service: Service) -> None:
    failed = [(epoch, failure("all")) for epoch in range(1, MOST_FAILURES + 1)]
    await service.queue.change(failed=[*failed])
    with pytest.raises(WeightSyncError, match="version 3"):
        await service.engines.follow()
    assert len(service.events) == MOST_FAILURES - 1


async def test_failures_of_different_versions_are_not_added_up(service: Service) -> None:
    failed = [(epoch, failure("all", version=epoch // 2)) for epoch in range(1, 2 * MOST_FAILURES)]
    await service.queue.change(failed=[*failed, None])
    await service.engines.follow()
    assert len(service.events) == len(failed)
