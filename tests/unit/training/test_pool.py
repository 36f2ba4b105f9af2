"""The pool over actors of this event loop: who gets work, and how a member that died, hangs or is ill comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest
from ray.exceptions import ActorUnavailableError, RayActorError

from actors.errors import EngineError, QueueClosed
from services.training import pool as pools
from services.training.pool import Member, Pool
from tests.unit.training.members import Process, make_pool

SELDOM_S = 3600.0
"""Between two health calls: what is looked at here is what someone suspects."""

Watched = Callable[..., Awaitable[tuple[Pool, list[Process]]]]


@pytest.fixture
def events() -> list[str]:
    return []


@pytest.fixture(autouse=True)
def _kills(monkeypatch: pytest.MonkeyPatch) -> None:
    """To end a process means here that the test's process dies."""

    async def end(member: Member) -> None:
        process = member.handle._target
        process.events.append(f"end {process.name}")
        process.die()

    monkeypatch.setattr(pools, "_end", end)


@pytest.fixture
async def watched(events: list[str]) -> AsyncIterator[Watched]:
    """watched(names...) builds pools that are up and looked after until the test ends."""
    tasks: list[asyncio.Task[None]] = []

    async def build(*names: str, answer_s: float = 60) -> tuple[Pool, list[Process]]:
        pool, processes = make_pool(*names, events=events, answer_s=answer_s)
        await pool.start()
        events.clear()
        tasks.append(asyncio.create_task(pool.watch(every_s=SELDOM_S)))
        await asyncio.sleep(0)
        return pool, processes

    yield build
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def up(pool: Pool) -> None:
    """Returns when all members take work."""
    async with pool._changed:
        await pool._changed.wait_for(lambda: len(pool.living) == len(pool.members))


# --- routing ---------------------------------------------------------------------------------------------------------------------


async def test_work_goes_to_whoever_has_the_least(watched: Watched) -> None:
    pool, _ = await watched("a", "b")
    async with AsyncExitStack() as work:
        taken = [(await work.enter_async_context(pool.least_loaded())).index for _ in range(4)]
        assert taken == [0, 1, 0, 1]
    async with pool.least_loaded(), pool.least_loaded(pool.members[0]) as wanted:
        assert wanted.index == 0  # though it has more


async def test_a_wanted_member_that_is_down_is_not_waited_for(watched: Watched) -> None:
    pool, (first, _) = await watched("a", "b")
    first.answers.clear()
    pool.suspect(pool.members[0])
    async with pool.least_loaded(pool.members[0]) as member:
        assert member.index == 1


async def test_work_waits_while_nobody_lives(events: list[str]) -> None:
    pool, _ = make_pool("a", events=events)

    async def work() -> int:
        async with pool.least_loaded() as member:
            return member.index

    waiting = asyncio.create_task(work())
    await asyncio.sleep(0)
    assert not waiting.done()
    assert await pool.start() == ["a 1"]
    assert await waiting == 0


async def test_a_pool_that_was_given_up_at_the_end_of_a_run_serves_the_next(events: list[str]) -> None:
    pool, (process,) = make_pool("a", events=events)

    async def over(member: Member, why: str) -> None:
        raise QueueClosed("the run is over")

    pool.lost = over
    await pool.start()
    process.die()
    pool.suspect(pool.members[0])
    await pool.watch(every_s=SELDOM_S)
    with pytest.raises(EngineError, match="too far at its end"):
        async with pool.least_loaded():
            pass

    await pool.start()
    pool.suspect(pool.members[0])
    async with AsyncExitStack() as stack:
        waiting = asyncio.create_task(stack.enter_async_context(pool.least_loaded()))
        await asyncio.sleep(0)
        assert not waiting.done()
        await pool.start()
        assert (await waiting).index == 0


async def test_the_work_of_whoever_fails_is_taken_off_again(watched: Watched) -> None:
    pool, _ = await watched("a")
    with pytest.raises(EngineError):
        async with pool.least_loaded():
            raise EngineError("dead")
    assert pool.members[0].load == 0


# --- coming back -----------------------------------------------------------------------------------------------------------------


async def test_a_suspected_member_that_is_well_gets_work_again_and_is_not_started_anew(watched: Watched, events: list[str]) -> None:
    pool, (process,) = await watched("a")
    process.answers.clear()
    pool.suspect(pool.members[0])
    await asyncio.sleep(0)
    assert pool.living == []
    process.answers.set()
    await up(pool)
    assert events == []


async def test_a_call_that_is_lost_is_made_again_and_nothing_is_started_anew(
    watched: Watched, events: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "AGAIN_S", 0)
    pool, (process,) = await watched("a")
    process.lost_calls = 3
    assert not await pool.died(pool.members[0], 0)
    assert events == [] and process.lost_calls == 0


async def test_whoever_asks_hears_of_a_death_and_of_none_that_was_before(watched: Watched) -> None:
    pool, (process,) = await watched("a")
    process.die()
    assert await pool.died(pool.members[0], 0)
    await up(pool)
    assert not await pool.died(pool.members[0], 1)


async def test_a_dead_member_is_reported_started_and_confirmed_before_it_works(watched: Watched, events: list[str]) -> None:
    pool, (process, _) = await watched("a", "b")
    confirmed = asyncio.Event()

    async def back(member: Member, why: str) -> None:
        events.append("back a")
        await confirmed.wait()

    pool.back = back
    process.die()
    pool.suspect(pool.members[0])
    while "back a" not in events:
        await asyncio.sleep(0)
    assert events == ["lost a: its process died", "wake a", "back a"]
    assert [member.index for member in pool.living] == [1]
    confirmed.set()
    await up(pool)
    assert pool.members[0].process == (2, "here")


async def test_a_member_that_does_not_answer_in_time_is_ended_and_that_counts_as_a_death(watched: Watched, events: list[str]) -> None:
    pool, (process,) = await watched("a", answer_s=0.01)
    process.wakes.clear()
    process.answers.clear()
    pool.suspect(pool.members[0])
    while "wake a" not in events:
        await asyncio.sleep(0)
    assert events == ["end a", "lost a: no answer in 0.01 s", "wake a"]
    assert pool.members[0].deaths == 1
    process.wakes.set()
    await up(pool)
    assert not pool.members[0].ended


async def test_a_member_that_says_it_is_ill_is_ended(watched: Watched, events: list[str]) -> None:
    pool, (process,) = await watched("a")
    process.ill = EngineError("the core is gone")
    pool.suspect(pool.members[0])
    while "back a" not in events:
        await asyncio.sleep(0)
    assert events == ["end a", "lost a: the core is gone", "wake a", "back a"]


async def test_a_regular_look_finds_a_death_that_nobody_suspected(events: list[str]) -> None:
    pool, (process,) = make_pool("a", events=events)
    await pool.start()
    process.die()
    watching = asyncio.create_task(pool.watch(every_s=0.001))
    while events[-1] != "back a" or len(events) < 5:
        await asyncio.sleep(0)
    assert events == ["wake a", "back a", "lost a: its process died", "wake a", "back a"]
    watching.cancel()


async def test_ending_a_member_brings_the_next(watched: Watched, events: list[str]) -> None:
    pool, _ = await watched("a", "b")
    await pool.end(pool.members[0])
    assert pool.members[0].ended and [member.index for member in pool.living] == [1]
    await up(pool)
    assert events == ["end a", "lost a: its process died", "wake a", "back a"]


# --- trouble while it comes back -------------------------------------------------------------------------------------------------


async def test_a_member_is_started_once_however_often_it_is_suspected(watched: Watched, events: list[str]) -> None:
    pool, (process,) = await watched("a")
    process.wakes.clear()
    process.die()
    pool.suspect(pool.members[0])
    while "wake a" not in events:
        await asyncio.sleep(0)
    for _ in range(3):
        pool.suspect(pool.members[0])
        await asyncio.sleep(0)
    process.wakes.set()
    await up(pool)
    assert events.count("wake a") == 1


async def test_a_death_before_the_confirmation_starts_the_next_at_once(watched: Watched, events: list[str]) -> None:
    pool, (process,) = await watched("a")
    confirmed = asyncio.Event()

    async def back(member: Member, why: str) -> None:
        events.append(f"back a {process.pid}")
        await confirmed.wait()

    pool.back = back
    process.die()
    pool.suspect(pool.members[0])
    while "back a 2" not in events:
        await asyncio.sleep(0)
    process.die()
    pool.suspect(pool.members[0])
    while "back a 3" not in events:
        await asyncio.sleep(0)
    assert pool.living == []
    confirmed.set()
    await up(pool)
    assert events == ["lost a: its process died", "wake a", "back a 2", "wake a", "back a 3"]


async def test_a_process_that_dies_while_it_wakes_is_followed_by_another(events: list[str]) -> None:
    pool, _ = make_pool("a", events=events)
    failures: list[Exception] = [ActorUnavailableError("restarting", None)]

    async def wake(member: Member) -> None:
        events.append("wake")
        if failures:
            raise failures.pop()

    pool._wake = wake
    await pool.start()
    assert events == ["wake", "wake", "back a"]
    failures.append(RayActorError())
    with pytest.raises(RayActorError):  # for good: Ray starts no other
        await pool.start()


async def test_a_process_that_never_comes_up_is_an_error_and_no_wait_for_ever(events: list[str]) -> None:
    pool, (a, b) = make_pool("a", "b", events=events, start_s=0.01)
    a.answers.clear()  # not even a process
    with pytest.raises(EngineError, match="not up after"):
        await pool.start()
    a.answers.set()
    b.wakes.clear()
    with pytest.raises(EngineError, match="not up after"):
        await pool.start()
