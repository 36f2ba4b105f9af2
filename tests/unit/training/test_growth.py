"""A pool that follows its work, over actors of this event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest

from actors.errors import VerifierError
from services.training import growth
from services.training.growth import GROW_AT, GROW_S, IDLE_S, Growth, Mood
from services.training.pool import Pool
from tests.unit.training.handles import Handle
from tests.unit.training.members import Process, make_pool, task_error


def changes(*looks: tuple[int, int, float]) -> list[int]:
    """What a pool is told at each look: (load, actors, seconds)."""
    mood = Mood()
    return [mood.change(*look) for look in looks]


def test_a_pool_grows_by_one_for_each_while_that_it_stays_crowded() -> None:
    crowded, after = 2 * GROW_AT + 1, GROW_S + 1
    assert changes((crowded, 2, 0), (crowded, 2, GROW_S - 1), (crowded, 2, after), (crowded, 2, after + 1), (crowded, 2, 2 * after)) == [
        0,
        0,
        1,
        0,
        1,
    ]
    assert changes((crowded, 2, 0), (crowded - 1, 2, GROW_S - 1), (crowded, 2, after)) == [0, 0, 0]  # it had caught up in between


def test_a_pool_shrinks_only_after_an_actor_had_long_nothing_to_do() -> None:
    assert changes((1, 2, 0), (1, 2, IDLE_S - 1), (0, 2, IDLE_S), (0, 1, 2 * IDLE_S)) == [0, 0, -1, -1]
    assert changes((1, 2, 0), (2, 2, IDLE_S - 1), (1, 2, IDLE_S)) == [0, 0, 0]


@dataclass
class Bench:
    """A growing pool of one that is looked after, and the clock that the test sets."""

    pool: Pool
    events: list[str]
    looks: asyncio.Queue[None] = field(default_factory=asyncio.Queue)
    looked: asyncio.Event = field(default_factory=asyncio.Event)
    now: float = 0.0
    made: list[Process] = field(default_factory=list)

    def make(self) -> Any:
        self.made.append(Process(f"new{len(self.made)}", self.events))
        return Handle(self.made[-1])

    async def wait(self, _: float) -> None:
        """Stands in for the pause between two looks."""
        self.looked.set()
        await self.looks.get()

    async def look(self, after_s: float) -> None:
        """Let so much time pass, and have the pool look at itself once."""
        self.now += after_s
        self.looked.clear()
        self.looks.put_nowait(None)
        await self.looked.wait()


@pytest.fixture
async def bench(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    events: list[str] = []
    pool, _ = make_pool("old", events=events)
    bench = Bench(pool, events)
    monkeypatch.setattr(pool, "back", _nobody)
    monkeypatch.setattr(pool, "lost", _nobody)
    monkeypatch.setattr(growth, "_pause", bench.wait)
    monkeypatch.setattr(growth, "_now", lambda: bench.now)
    monkeypatch.setattr("ray.kill", lambda handle: events.append(f"kill {handle._target.name}"))
    await pool.start()
    tasks = [asyncio.create_task(pool.watch(every_s=3600))]
    await asyncio.sleep(0)
    tasks.append(asyncio.create_task(Growth(pool, bench.make, most=2, closable=False).follow()))
    await bench.looked.wait()
    events.clear()
    yield bench
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _nobody(*_: Any) -> None:
    """Tells nobody."""


async def test_a_backlog_brings_another_actor_and_no_more_than_allowed(bench: Bench) -> None:
    async with AsyncExitStack() as work:
        for _ in range(3 * GROW_AT):
            await work.enter_async_context(bench.pool.least_loaded())
        await bench.look(0)
        await bench.look(GROW_S)
        assert [member.load for member in bench.pool.living] == [3 * GROW_AT, 0]
        assert bench.events == ["wake new0"]
        async with bench.pool.least_loaded() as member:
            assert member is bench.pool.members[1]  # new work goes to the new one
        await bench.look(GROW_S)
        await bench.look(GROW_S)
        assert len(bench.made) == 1

    await bench.look(0)
    await bench.look(IDLE_S)
    assert bench.events == ["wake new0", "kill new0"] and len(bench.pool.members) == 1
    await bench.look(IDLE_S)
    assert len(bench.pool.members) == 1  # never below what the recipe asks for


async def test_an_actor_with_work_is_not_let_go(bench: Bench) -> None:
    await bench.pool.add(bench.make())
    async with bench.pool.least_loaded(), bench.pool.least_loaded():
        assert bench.pool.let_go() is None
    async with bench.pool.least_loaded() as busy:
        assert bench.pool.let_go() not in (busy, None)
        assert bench.pool.members == [busy]


async def test_a_node_that_cannot_run_another_actor_leaves_the_pool_well(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(_: Process) -> str:
        raise task_error(VerifierError("bubblewrap does not work here"))

    monkeypatch.setattr(Process, "wake", refuse)
    async with AsyncExitStack() as work:
        for _ in range(2 * GROW_AT):
            await work.enter_async_context(bench.pool.least_loaded())
        await bench.look(0)
        await bench.look(GROW_S)
    assert bench.events == ["kill new0"] and len(bench.pool.members) == 1


async def test_a_further_actor_that_dies_is_not_waited_for(bench: Bench) -> None:
    await bench.pool.add(bench.make())
    member, looking_after = bench.pool.members[1], bench.pool._watches[1]
    bench.made[0].die()
    assert await bench.pool.died(member, 0)
    assert member not in bench.pool.members and not member.up
    await looking_after
    assert bench.events[-1] == "kill new0"
    async with bench.pool.least_loaded() as old:
        assert old is bench.pool.members[0]


async def test_an_actor_that_never_comes_up_is_given_up_and_the_pool_stays(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.pool, "_start_s", 0.01)
    monkeypatch.setattr(Process, "wake", lambda process: asyncio.Event().wait())
    async with AsyncExitStack() as work:
        for _ in range(2 * GROW_AT):
            await work.enter_async_context(bench.pool.least_loaded())
        await bench.look(0)
        await bench.look(GROW_S)
    assert bench.events == ["kill new0"] and len(bench.pool.members) == 1
