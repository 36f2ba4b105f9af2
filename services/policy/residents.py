"""Which policy versions are in memory, one to an engine, and who waits for which.

    borrow(step) ──► resident? ──yes──► the slot, until give_back
                        │ no
                        ▼
                  a demand ──► fetched and verified ──► a slot leaves its version ──► drained ──► loaded

A slot that leaves its version admits nobody more, waits for its last answer, and only then loads: an answer comes from one version, and
none is dropped. A version that was just loaded stays for a while, so that versions which take turns each get something done; promotions,
which may come faster than that, get every second turn at most while others wait. The home slot, which holds what `policy` means, gives
way only where it is the only one; with two slots a promotion loads the new version beside the old one and then changes over between two
requests.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Generic

from actors.errors import NotResident, PolicyVersionError
from services.policy.slots import E, Slot, Version

log = logging.getLogger(__name__)

RETRY_S = 5.0
"""Seconds until an engine that could not be started is started again."""


@dataclass(slots=True, eq=False)
class _Demand(Generic[E]):
    """A version that is wanted and not there. Its waiters are given the slot in the moment that it has the version."""

    waiters: list[asyncio.Future[Slot[E]]] = field(default_factory=list)
    version: Version | None = None  # once it is verified
    urgent: bool = False  # `policy` is to mean it
    changing: bool = False  # a slot is on its way to it

    @property
    def waiting(self) -> int:
        """Requests that have not given up."""
        return sum(not waiter.done() for waiter in self.waiters)


class Residents(Generic[E]):
    """The slots of one replica; all calls on one event loop."""

    def __init__(
        self,
        start: Callable[[], Awaitable[tuple[E, Version]]],
        fetch: Callable[[int], Awaitable[Version]],
        *,
        limit: int,
        stay_s: float,
        wait_s: float,
    ) -> None:
        """`start` makes an engine with what `policy` is to mean; `fetch` verifies a version and raises PolicyVersionError if it is bad."""
        self._start, self._fetch = start, fetch
        self._limit, self._stay_s, self._wait_s = limit, stay_s, wait_s
        self.slots: list[Slot[E]] = []
        self.serving: Version | None = None  # what `policy` means
        self.swaps = 0
        self.home: Slot[E] | None = None
        self._promoted: int | None = None  # on its way to be what `policy` means
        self._urgent_before = False  # the last turn was a promotion's
        self._demands: dict[int, _Demand[E]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def steps(self) -> set[int]:
        """Steps of the versions that answer at once."""
        return {slot.version.step for slot in self.slots if slot.answers}

    @property
    def running(self) -> int:
        """Requests that have a slot."""
        return sum(slot.running for slot in self.slots)

    @property
    def waiting(self) -> int:
        """Requests that wait for their version."""
        return sum(demand.waiting for demand in self._demands.values())

    @property
    def policy_step(self) -> int | None:
        """The step a request for `policy` is to get: what it means, or, where no slot answers with that, what it is about to mean."""
        meant = self.serving.step if self.serving else None
        coming = None if self._promoted is None else self._demands.get(self._promoted)
        verified = coming is not None and coming.version is not None
        return self._promoted if verified and (meant is None or self._holder(meant) is None) else meant

    @property
    def healthy(self) -> bool:
        """Whether some version answers or is about to."""
        return any(not slot.engine.dead for slot in self.slots)

    async def open(self) -> None:
        """Bring the first engine up, then the others in the background."""
        self._seat(*await self._start())
        for _ in range(1, self._limit):
            self._spawn(self._add_slot())

    async def borrow(self, step: int) -> Slot[E]:
        """A slot that holds the version and will until `give_back`.

        Raises PolicyVersionError for a version that must not be loaded, NotResident where none came free in time.
        """
        if (slot := self._holder(step)) is not None:
            return slot.take()
        try:
            async with asyncio.timeout(self._wait_s):
                return await self._wait_for(step)
        except TimeoutError:
            raise NotResident(f"policy@step-{step} could not be loaded in {self._wait_s:g} s", retry_after_s=self._stay_s) from None

    def give_back(self, slot: Slot[E]) -> None:
        """A borrowed slot's request has ended."""
        slot.give_back()
        if slot.running == 0:
            self._turn()

    async def promote(self, step: int) -> None:
        """Let `policy` mean another version; returns once it does. PolicyVersionError, and all as it was, for a bad one."""
        self._promoted = step
        try:
            holder = self._holder(step)
            slot = holder.take() if holder else await self._wait_for(step, urgent=True)
            self.home, self.serving = slot, slot.version
            self.give_back(slot)
        finally:
            self._promoted = None

    def mend(self) -> None:
        """Replace engines that have died."""
        for slot in [slot for slot in self.slots if slot.engine.dead and not slot.leaving]:
            self._lose(slot)

    async def close(self) -> None:
        """Stop every engine."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(asyncio.to_thread(slot.engine.stop) for slot in self.slots))
        self.slots.clear()

    def _holder(self, step: int) -> Slot[E] | None:
        """A slot that answers with a version: of several the home slot, since one large batch is decoded faster than two small ones."""
        holders = [slot for slot in self.slots if slot.version.step == step and slot.answers]
        return self.home if self.home in holders else next(iter(holders), None)

    async def _wait_for(self, step: int, *, urgent: bool = False) -> Slot[E]:
        demand = self._demands.get(step)
        if demand is None:
            demand = self._demands[step] = _Demand()
            self._spawn(self._prepare(step, demand))
        demand.urgent |= urgent
        waiter: asyncio.Future[Slot[E]] = asyncio.get_running_loop().create_future()
        demand.waiters.append(waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if not waiter.cancelled() and waiter.exception() is None:
                self.give_back(waiter.result())  # it came in the very moment the request gave up
            raise

    async def _prepare(self, step: int, demand: _Demand[E]) -> None:
        """Fetch and verify what is wanted, while every slot goes on answering."""
        try:
            demand.version = await self._fetch(step)
        except Exception as error:
            if self._demands.get(step) is demand:  # else an engine has come up with it meanwhile
                self._settle(step, error)
        else:
            self._turn()

    def _settle(self, step: int, outcome: Slot[E] | Exception) -> None:
        """A demand has come to its end."""
        for waiter in self._demands.pop(step).waiters:
            if waiter.done():
                continue
            if isinstance(outcome, Exception):
                waiter.set_exception(outcome)
            else:
                waiter.set_result(outcome.take())

    def _turn(self) -> None:
        """Give slots to demands: what `policy` is to mean first, but not twice running, and others in the order they came."""
        for step, demand in sorted(self._demands.items(), key=lambda entry: entry[1].urgent == self._urgent_before):
            if demand.version is None or demand.changing:
                continue
            if not demand.waiting:
                del self._demands[step]
            elif (slot := self._vacant()) is not None:
                slot.leaving = demand.changing = True
                self._urgent_before = demand.urgent
                self._spawn(self._change(slot, demand.version))

    def _vacant(self) -> Slot[E] | None:
        """The slot to change next: idle rather than busy, then unused for longest; none while all have just been loaded."""
        others = [slot for slot in self.slots if slot is not self.home] if self._limit > 1 else self.slots
        free = [slot for slot in others if not slot.leaving and not slot.engine.dead]
        now = time.monotonic()
        rested = [slot for slot in free if now - slot.loaded >= self._stay_s]
        if not rested and free:
            soonest = min(slot.loaded for slot in free) + self._stay_s - now
            asyncio.get_running_loop().call_later(max(soonest, 0.0) + 1e-3, self._turn)
        return min(rested, key=lambda slot: (slot.running > 0, slot.used), default=None)

    async def _change(self, slot: Slot[E], version: Version) -> None:
        """Drain a slot and load another version into it."""
        await slot.idle.wait()
        try:
            version = await self._fetch(version.step)  # again: it may have gone while the answers under way were finished
        except Exception as error:
            slot.leaving = False
            self._settle(version.step, error)
            self._turn()
            return
        try:
            await slot.engine.load(version.path)
        except Exception as error:
            self._lose(slot)
            self._settle(version.step, PolicyVersionError(f"{version.path}: the engine cannot load it: {error}"))
            return
        self._hold(slot, version)
        self.swaps += 1
        self._settle(version.step, slot)
        self._turn()

    def _hold(self, slot: Slot[E], version: Version) -> None:
        slot.version = version
        slot.engine.introduce(version.name, version.fingerprint)
        slot.loaded = slot.used = time.monotonic()
        slot.leaving = False
        if self.home is None and (self.serving is None or self.serving.step == version.step):
            self.home, self.serving = slot, version

    def _seat(self, engine: E, version: Version) -> Slot[E]:
        if not self.slots:
            self.home = self.serving = None  # nothing else can answer
        slot = Slot(engine, version)
        slot.idle.set()
        self.slots.append(slot)
        self._hold(slot, version)
        return slot

    def _lose(self, slot: Slot[E]) -> None:
        """An engine is of no more use: stop it, and start another one."""
        self.slots.remove(slot)
        if slot is self.home:
            self.home = None
        self._spawn(asyncio.to_thread(slot.engine.stop))
        self._spawn(self._add_slot())

    async def _add_slot(self) -> None:
        """Start an engine, however often that takes."""
        while True:
            try:
                engine, version = await self._start()
                break
            except Exception as error:
                log.error("an engine could not be started: %s", error)
                await asyncio.sleep(RETRY_S)
        slot = self._seat(engine, version)
        if version.step in self._demands and not self._demands[version.step].changing:
            self._settle(version.step, slot)
        self._turn()

    def _spawn(self, work: Awaitable[None]) -> None:
        if self._closed:
            if asyncio.iscoroutine(work):
                work.close()
            return
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
