"""A pool that follows its work: one more actor while work piles up, one fewer when one has had nothing to do for a while.

An actor that finds no room waits for it, and a cluster's autoscaler sees it wait.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import RayError

from actors.errors import GmpoError
from services.training.pool import Member, Pool

LOOK_S = 1.0
GROW_AT = 8
"""Groups under way per actor, above which the pool is crowded."""
GROW_S, IDLE_S = 10.0, 120.0
"""Seconds for which a pool must be crowded, or have an actor without work, before it changes."""
CLOSE_S = 20.0

_now, _pause = time.monotonic, asyncio.sleep


class Mood:
    """Says from time to time how many actors a pool should have more than it has, by the work they hold."""

    def __init__(self) -> None:
        self._last, self._since = 0, 0.0

    def change(self, load: int, actors: int, now: float) -> int:
        """1, 0 or -1. `load`: groups under way on all actors; now: seconds."""
        mood = 1 if load > GROW_AT * actors else -1 if load < actors else 0
        if mood != self._last:
            self._last, self._since = mood, now
        if mood == 0 or now - self._since < (GROW_S if mood > 0 else IDLE_S):
            return 0
        self._since = now
        return mood


class Growth:
    """Keeps a pool between the actors it was started with and `most`."""

    def __init__(self, pool: Pool, make: Callable[[], Any], *, most: int, closable: bool) -> None:
        """`make` starts another actor; closable: it has children that its `close` ends."""
        self._pool, self._make, self._closable = pool, make, closable
        self._least, self._most = len(pool.members), most
        self._mood = Mood()

    async def follow(self) -> None:
        """Until cancelled."""
        while True:
            await _pause(LOOK_S)
            living = self._pool.living
            change = self._mood.change(sum(member.load for member in living), len(living), _now())
            if change > 0 and len(self._pool.members) < self._most:
                await self._grow()
            elif change < 0 and len(self._pool.members) > self._least and (member := self._pool.let_go()):
                await self._end(member)

    async def _grow(self) -> None:
        """Have one more; where none comes up in time the pool stays as it is."""
        handle = self._make()
        added = False
        try:
            await self._pool.add(handle)
            added = True
        except (GmpoError, RayError):
            return  # no room, or a node that cannot run it: the pool itself is well
        finally:
            if not added:
                ray.kill(handle)

    async def _end(self, member: Member) -> None:
        try:
            if self._closable:
                await asyncio.wait([asyncio.ensure_future(member.handle.close.remote())], timeout=CLOSE_S)
        finally:
            ray.kill(member.handle)
