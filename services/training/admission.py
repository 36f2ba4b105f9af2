"""How far generation may run ahead: a prompt is admitted only while there is room under the staleness bound."""

from __future__ import annotations

import asyncio


class Admission:
    """Counts the prompts under way. A place is freed when its step is published; where a prompt is dropped, another takes its place.

    `limit` is (max_staleness + 1) x prompts_per_step.
    """

    def __init__(self, limit: int, *, taken: int = 0) -> None:
        self._limit = limit
        self._outstanding = taken
        self._changed = asyncio.Condition()

    async def admit(self, count: int) -> None:
        """Take `count` places, waiting until there are as many."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._outstanding + count <= self._limit)
            self._outstanding += count

    async def free(self, count: int) -> None:
        """Give `count` places back."""
        async with self._changed:
            self._outstanding -= count
            self._changed.notify_all()
