"""A pool: actors of one kind, work to whoever has the least, and a stand-in process for each that dies or hangs.

Ray starts the process of a dead actor again under the same handle; `Pool` notices, ends a process that does not answer, and sends no
work before the new one is ready:

    up ──(it died | no answer in time)──► down ──► its process is seen gone ──► `wake` ──► up
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import psutil
import ray
from ray.exceptions import ActorUnavailableError, RayActorError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.errors import EngineError, QueueClosed

AGAIN_S = 0.2
"""Seconds before a lost call is made again."""
KILL_S = 30.0
"""Seconds after which a killed process must be gone."""


Process = tuple[int, str]
"""(process id, Ray node)."""


@dataclass(slots=True, eq=False)
class Member:
    """One actor of a pool."""

    index: int
    handle: Any
    spare: bool = False  # came after the start: the pool can do without it
    up: bool = False
    load: int = 0
    ended: bool = False  # its last process was ended by us, so its death is nobody's fault
    deaths: int = 0  # processes that died or hung by themselves
    process: Process | None = None
    suspicion: asyncio.Event = field(default_factory=asyncio.Event)


Wake = Callable[[Member], Awaitable[Any]]
"""Makes the fresh process of a member ready for work."""
Told = Callable[[Member, str], Awaitable[None]]
"""Hears of a member and why."""


Health = Callable[[Any], Awaitable[Any]]
"""Asks an actor how it is."""


async def nobody(member: Member, why: str) -> None:
    """Tells nobody."""


async def _well(handle: Any) -> None:
    """Who answers is well."""


class Pool:
    """Routes work, and keeps its members alive once `watch` runs."""

    def __init__(
        self, handles: Sequence[Any], *, wake: Wake, health: Health = _well, answer_s: float = 60.0, start_s: float = 600.0
    ) -> None:
        """`health` raises, within `answer_s`, where an actor is not well; `wake` brings up a fresh process, within `start_s`."""
        self.members = [Member(index, handle) for index, handle in enumerate(handles)]
        self._numbers = itertools.count(len(self.members))
        self._watches: dict[int, asyncio.Task[None]] = {}  # by member
        self._health, self._wake = health, wake
        self._answer_s, self._start_s = answer_s, start_s
        self._changed = asyncio.Condition()
        self._abandoned = False  # nobody is replaced any more
        self.lost: Told = nobody
        self.back: Told = nobody

    @property
    def living(self) -> list[Member]:
        """Members that take work."""
        return [member for member in self.members if member.up]

    async def start(self) -> list[Any]:
        """Wake every member; their answers."""
        self._abandoned = False  # as it may be after the run before
        return list(await asyncio.gather(*(self._bring_up(member) for member in self.members)))

    @asynccontextmanager
    async def least_loaded(self, wanted: Member | None = None) -> AsyncIterator[Member]:
        """The living member with the least work (or `wanted`, if it lives), counted as busy inside the block; waits until one lives."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.living or self._abandoned)
            if not self.living:
                raise EngineError("no actor of the pool lives, and the run is too far at its end to replace one")
            member = wanted if wanted and wanted.up else min(self.living, key=lambda member: (member.load, member.index))
            member.load += 1
        try:
            yield member
        finally:
            member.load -= 1

    async def watch(self, *, every_s: float) -> None:
        """Look after all members until cancelled, or until there is no run for them: one health call every so often, or at a suspicion."""
        try:
            async with asyncio.TaskGroup() as self._tasks:
                for member in self.members:
                    self._watch(member, every_s)
        except* QueueClosed:
            async with self._changed:
                self._abandoned = True
                self._changed.notify_all()

    def _watch(self, member: Member, every_s: float) -> None:
        self._every_s = every_s
        self._watches[member.index] = self._tasks.create_task(self._look_after(member, every_s))

    async def add(self, handle: Any) -> None:
        """Have another actor take work once it is ready; only while `watch` runs. Raises as `start` does, and nothing is added then."""
        member = Member(next(self._numbers), handle, spare=True)
        await self._bring_up(member)
        if self._abandoned:
            raise EngineError("the run is too far at its end for another actor")
        self._watch(member, self._every_s)
        self.members.append(member)

    def let_go(self) -> Member | None:
        """Take the youngest member without work out of the pool, if there is one; its actor is the caller's to end."""
        member = next((member for member in reversed(self.members) if member.up and not member.load), None)
        if member is not None:
            self._watches[member.index].cancel()
            self._drop(member)
        return member

    def _drop(self, member: Member) -> None:
        member.up = False
        self.members.remove(member)
        del self._watches[member.index]

    def suspect(self, member: Member) -> None:
        """Something went wrong with a member: it is looked at, and gets no work before it is found well."""
        member.up = False
        member.suspicion.set()

    async def died(self, member: Member, deaths: int) -> bool:
        """Whether a suspected member really died, and by itself, since it had died so many times; waits until it was looked at."""
        if member.deaths == deaths and not member.ended:
            self.suspect(member)
        async with self._changed:
            await self._changed.wait_for(lambda: member.up or member.deaths > deaths or member.ended or self._abandoned)
        return member.deaths > deaths

    async def end(self, member: Member) -> None:
        """End a member's process; `watch` sees to the next."""
        member.ended = True
        await _end(member)
        self.suspect(member)

    async def _look_after(self, member: Member, every_s: float) -> None:
        while True:
            try:
                async with asyncio.timeout(every_s):
                    await member.suspicion.wait()
            except TimeoutError:
                pass
            if (why := await self._ailment(member)) is not None:
                async with self._changed:
                    member.up, member.deaths = False, member.deaths + (not member.ended)
                    if member.spare:
                        self._drop(member)
                    self._changed.notify_all()
                await self.lost(member, why)
                if member.spare:  # not worth waiting for: if work piles up, the pool grows again
                    ray.kill(member.handle)
                    return
                await self._bring_up(member)
            elif not member.up:
                await self._admit(member)

    async def _ailment(self, member: Member) -> str | None:
        """What is wrong with a member; its process is then gone for certain."""
        member.suspicion.clear()
        try:
            async with asyncio.timeout(self._answer_s):
                return await self._answers(member)
        except TimeoutError:
            why = f"no answer in {self._answer_s:g} s"
        except RayTaskError as error:
            why = str(error.cause or error)
        except RayActorError:
            return "its process died"
        await _end(member)
        return why

    async def _answers(self, member: Member) -> str | None:
        """None once a member says that it is well. A call that is lost says nothing: its process may be another now, or the same."""
        while True:
            try:
                if await process_of(member.handle) != member.process:
                    return "its process died"
                await self._health(member.handle)
                return None
            except ActorUnavailableError:
                await asyncio.sleep(AGAIN_S)

    async def _bring_up(self, member: Member) -> Any:
        """Wake a member's process, and the next one if that dies before it takes work.

        Raises ActorDiedError if none can be built, and EngineError if none comes up in time.
        """
        while True:
            try:
                async with asyncio.timeout(self._start_s):
                    member.process = await process_of(member.handle)
                    answer = await self._wake(member)
            except ActorUnavailableError:
                continue
            except TimeoutError:
                raise EngineError(f"{member.handle} was not up after {self._start_s:g} s") from None
            if await self._survives(member, self.back(member, "ready again")):
                break
        member.ended = False
        await self._admit(member)
        return answer

    async def _admit(self, member: Member) -> None:
        async with self._changed:
            member.up = True
            self._changed.notify_all()

    async def _survives(self, member: Member, work: Awaitable[None]) -> bool:
        """Whether a member is still well when some work with it has come to its end; a suspicion is looked into at once."""
        working = asyncio.ensure_future(work)
        try:
            while not working.done():
                doubting = asyncio.create_task(member.suspicion.wait())
                await asyncio.wait({working, doubting}, return_when=asyncio.FIRST_COMPLETED)
                doubting.cancel()
                if member.suspicion.is_set() and await self._ailment(member) is not None:
                    return False
            working.result()
            return True
        finally:
            working.cancel()


async def process_of(handle: Any) -> Process:
    """The process behind a handle; waits until there is one."""
    found: Process = await handle.__ray_call__.remote(lambda _: (os.getpid(), ray.get_runtime_context().get_node_id()))
    return found


async def _end(member: Member) -> None:
    await end_process(member.process)


async def end_process(process: Process | None) -> None:
    """Kill an actor's process, which may be stopped or deaf, and see it gone."""
    if process is None:
        return
    pid, node = process
    if node == ray.get_runtime_context().get_node_id():
        await asyncio.to_thread(kill, pid)
        return
    there = NodeAffinitySchedulingStrategy(node, soft=False)
    try:
        await ray.remote(kill).options(num_cpus=0, scheduling_strategy=there).remote(pid)
    except ray.exceptions.RayError:
        return  # the whole node is gone


def kill(pid: int) -> None:
    """End a process of this machine at once; returns when it is gone."""
    try:
        process = psutil.Process(pid)
        process.kill()
        process.wait(KILL_S)
    except psutil.NoSuchProcess:
        return
