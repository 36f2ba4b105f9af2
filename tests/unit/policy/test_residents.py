from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from actors.errors import NotResident, PolicyVersionError
from actors.weights.manifest import Manifest
from services.policy.residents import Residents
from services.policy.slots import Slot, Version

LONG_S = 3600.0


def version(step: int) -> Version:
    return Version(Manifest(1, step, None, datetime.now(UTC), "run", f"{step:064d}", {}), Path(f"/step-{step}"))


@dataclass
class FakeEngine:
    """Loads at once, unless a gate is shut; remembers what it held while requests ran."""

    holds: str
    name: str = ""
    dead: bool = False
    stopped: bool = False
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    broken: bool = False

    def __post_init__(self) -> None:
        self.gate.set()

    async def load(self, model: Path) -> None:
        await self.gate.wait()
        if self.broken:
            raise RuntimeError("half loaded")
        self.holds = model.name

    def introduce(self, name: str, fingerprint: str) -> None:
        self.name = name

    def stop(self) -> None:
        self.stopped = True


class House:
    """Residents over fake engines; `wanted` is what a new engine starts with, `bad` versions are refused."""

    def __init__(self, *, limit: int = 2, stay_s: float = 0.0, wait_s: float = 5.0) -> None:
        self.wanted, self.bad, self.engines = 1, set[int](), list[FakeEngine]()
        self.residents: Residents[FakeEngine] = Residents(self.start, self.fetch, limit=limit, stay_s=stay_s, wait_s=wait_s)

    async def start(self) -> tuple[FakeEngine, Version]:
        engine = FakeEngine(f"step-{self.wanted}")
        self.engines.append(engine)
        return engine, version(self.wanted)

    async def fetch(self, step: int) -> Version:
        if step in self.bad:
            raise PolicyVersionError(f"step {step} is bad")
        return version(step)


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0)


async def opened(**settings: Any) -> House:
    house = House(**settings)
    await house.residents.open()
    await until(lambda: len(house.residents.slots) == settings.get("limit", 2))
    return house


def check_honest(slot: Slot[FakeEngine]) -> None:
    assert slot.engine.holds == f"step-{slot.version.step}" and slot.engine.name == slot.version.name


async def test_a_promotion_loads_beside_the_old_version_and_changes_over_without_waiting_for_its_requests() -> None:
    house = await opened()
    old = await house.residents.borrow(1)
    await house.residents.promote(2)
    assert house.residents.policy_step == 2
    assert house.residents.steps == {1, 2}
    check_honest(old)
    new = await house.residents.borrow(2)
    assert new is not old
    check_honest(new)
    house.residents.give_back(old)


async def test_with_one_engine_a_promotion_waits_for_the_answers_under_way_and_newcomers_wait_for_it() -> None:
    house = await opened(limit=1)
    old = await house.residents.borrow(1)
    promotion = asyncio.create_task(house.residents.promote(2))
    await until(lambda: old.leaving)
    assert house.residents.policy_step == 2  # who asks for `policy` now gets the new version
    newcomer = asyncio.create_task(house.residents.borrow(2))
    await asyncio.sleep(0)
    assert not newcomer.done() and old.engine.holds == "step-1"
    house.residents.give_back(old)
    await promotion
    check_honest(await newcomer)
    assert house.residents.steps == {2}


async def test_versions_that_take_turns_in_one_engine_all_get_theirs_and_every_answer_is_of_the_version_it_claims() -> None:
    house = await opened(limit=1)

    async def ask(step: int) -> None:
        for _ in range(5):
            slot = await house.residents.borrow(step)
            assert slot.version.step == step
            check_honest(slot)
            await asyncio.sleep(0)
            check_honest(slot)
            house.residents.give_back(slot)

    async with asyncio.timeout(10):
        await asyncio.gather(*(ask(step) for step in (1, 2, 3, 1, 2)))
    assert house.residents.running == house.residents.waiting == 0


async def test_the_home_version_is_never_put_out_by_others() -> None:
    house = await opened()
    for step in (2, 3, 4):
        slot = await house.residents.borrow(step)
        house.residents.give_back(slot)
        assert {1, step} == house.residents.steps


async def test_a_bad_version_is_refused_before_any_engine_is_touched() -> None:
    house = await opened()
    house.bad.add(2)
    with pytest.raises(PolicyVersionError, match="step 2 is bad"):
        await house.residents.promote(2)
    with pytest.raises(PolicyVersionError, match="step 2 is bad"):
        await house.residents.borrow(2)
    assert house.residents.policy_step == 1
    assert [engine.holds for engine in house.engines] == ["step-1", "step-1"]


async def test_a_request_for_which_no_engine_comes_free_is_told_when_to_ask_again() -> None:
    house = await opened(limit=1, wait_s=0.01, stay_s=2.0)
    await house.residents.borrow(1)
    with pytest.raises(NotResident) as refusal:
        await house.residents.borrow(2)
    assert refusal.value.retry_after_s == 2.0
    assert house.residents.waiting == 0


async def test_an_engine_that_fails_while_loading_is_replaced_and_the_label_never_lies() -> None:
    house = await opened()
    broken = next(slot for slot in house.residents.slots if slot is not house.residents.home)
    broken.engine.broken = True
    with pytest.raises(PolicyVersionError, match="the engine cannot load it"):
        await house.residents.promote(2)
    await until(lambda: len(house.residents.slots) == 2 and broken.engine.stopped)
    assert house.residents.policy_step == 1
    for slot in house.residents.slots:
        check_honest(slot)
    await house.residents.promote(2)
    assert house.residents.policy_step == 2


async def test_a_version_that_vanishes_while_its_slot_is_drained_costs_no_engine() -> None:
    house = await opened(limit=1)
    old = await house.residents.borrow(1)
    asked = asyncio.create_task(house.residents.borrow(2))
    await until(lambda: old.leaving)
    house.bad.add(2)  # retention deletes it
    house.residents.give_back(old)
    with pytest.raises(PolicyVersionError):
        await asked
    assert await house.residents.borrow(1) is old and not old.engine.stopped


async def test_dead_engines_are_replaced_by_what_policy_means_and_their_waiters_served() -> None:
    house = await opened(limit=1)
    dead = house.residents.slots[0]
    dead.engine.dead = True
    waiter = asyncio.create_task(house.residents.borrow(1))
    await asyncio.sleep(0)
    assert not waiter.done() and not house.residents.healthy
    house.residents.mend()
    slot = await waiter
    assert slot is not dead and dead.engine.stopped and house.residents.healthy
    check_honest(slot)


async def test_a_promotion_goes_before_older_wishes() -> None:
    house = await opened()
    spare = next(slot for slot in house.residents.slots if slot is not house.residents.home)
    spare.engine.gate.clear()  # so that the wishes gather
    wishes = [asyncio.create_task(house.residents.borrow(step)) for step in (5, 6)]
    await until(lambda: spare.leaving)
    promotion = asyncio.create_task(house.residents.promote(9))
    await until(lambda: house.residents.waiting == 3)
    spare.engine.gate.set()
    first = await wishes[0]
    house.residents.give_back(first)
    await promotion
    assert house.residents.policy_step == 9
    assert not wishes[1].done() or wishes[1].result().version.step == 6
    house.residents.give_back(await wishes[1])


def rest(slot: Slot[FakeEngine]) -> None:
    """Let a version have stayed for as long as it must."""
    slot.loaded -= LONG_S


async def test_promotions_that_come_faster_than_versions_may_leave_starve_nobody() -> None:
    house = await opened(limit=1, stay_s=LONG_S)
    only = house.residents.slots[0]
    rest(only)
    await house.residents.promote(2)
    wish, promotion = asyncio.create_task(house.residents.borrow(7)), asyncio.create_task(house.residents.promote(3))
    await until(lambda: house.residents.waiting == 2)
    await asyncio.sleep(0)  # both are verified
    rest(only)
    house.residents.give_back(await house.residents.borrow(2))
    house.residents.give_back(await wish)
    assert house.residents.policy_step == 3 and not promotion.done()
    rest(only)
    house.residents.give_back(await house.residents.borrow(7))
    await promotion
    assert house.residents.steps == {3}


async def test_who_asks_for_policy_while_another_version_has_its_engine_gets_the_one_that_is_next() -> None:
    house = await opened(limit=1, stay_s=LONG_S)
    only = house.residents.slots[0]
    rest(only)
    other = await house.residents.borrow(7)
    house.bad = {2}
    with pytest.raises(PolicyVersionError):
        await house.residents.promote(2)
    promotion = asyncio.create_task(house.residents.promote(3))
    await asyncio.sleep(0)
    assert house.residents.policy_step == 1  # nobody knows yet whether 3 is any good
    await until(lambda: house.residents.policy_step == 3)
    assert other.answers and not promotion.done()
    promotion.cancel()


async def test_closing_ends_every_engine() -> None:
    house = await opened()
    await house.residents.close()
    assert all(engine.stopped for engine in house.engines)
