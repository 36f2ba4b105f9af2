"""An actor whose process the test kills, stops, or makes ill."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ray.exceptions import ActorUnavailableError, RayTaskError

from services.training.pool import Member, Pool
from tests.unit.training.handles import Handle


@dataclass(eq=False)
class Process:
    """What stands behind a handle: always there, for Ray starts another one at once."""

    name: str
    events: list[str]
    pid: int = 1
    ill: Exception | None = None
    lost_calls: int = 0  # of the next ones
    answers: asyncio.Event = field(default_factory=asyncio.Event)  # calls wait for it
    wakes: asyncio.Event = field(default_factory=asyncio.Event)  # so does `wake`

    def __post_init__(self) -> None:
        self.answers.set()
        self.wakes.set()

    async def __ray_call__(self, _: Callable[[Any], Any]) -> tuple[int, str]:
        await self.answers.wait()
        if self.lost_calls:
            self.lost_calls -= 1
            raise ActorUnavailableError("the answer was lost", None)
        return self.pid, "here"

    async def health(self) -> None:
        await self.answers.wait()
        if self.ill is not None:
            raise task_error(self.ill)

    async def wake(self) -> str:
        self.events.append(f"wake {self.name}")
        await self.wakes.wait()
        return f"{self.name} {self.pid}"

    def die(self) -> None:
        """Another process takes its place."""
        self.pid += 1
        self.ill = None
        self.answers.set()


def task_error(cause: Exception) -> RayTaskError:
    """What Ray raises where a method raised `cause`."""
    return RayTaskError("method", "traceback", cause, proctitle="actor", pid=1, ip="127.0.0.1")


def make_pool(*names: str, events: list[str], answer_s: float = 60, start_s: float = 60) -> tuple[Pool, list[Process]]:
    """A pool that is not started, and the processes of its members."""
    processes = [Process(name, events) for name in names]

    async def wake(member: Member) -> Any:
        return await member.handle.wake.remote()

    deadlines = {"answer_s": answer_s, "start_s": start_s}
    pool = Pool(list(map(Handle, processes)), wake=wake, health=lambda handle: handle.health.remote(), **deadlines)

    async def lost(member: Member, why: str) -> None:
        events.append(f"lost {processes[member.index].name}: {why}")

    async def back(member: Member, why: str) -> None:
        events.append(f"back {processes[member.index].name}")

    pool.lost, pool.back = lost, back
    return pool, processes
