"""How far generation may run ahead: a prompt is admitted only while there is room under the staleness bound."""

from __future__ import annotations

import asyncio


class Admission:
    """Counts the prompts under way. A place is freed when its step is published; where a prompt is dropped, another takes its place.

    `limit` is (max_staleness + 1) x prompts_per_step. While the object store is nearly full (`press`) only `least`, the prompts that a
    step waits for, may be under way: with fewer no step is ever trained, and nothing let go of.
    """

    def __init__(self, limit: int, *, least: int, taken: int = 0) -> None:
        self._limit, self._least = limit, least
        self._outstanding = taken
        self._pressed = False
        self._changed = asyncio.Condition()

    async def admit(self, count: int) -> None:
        """Take `count` places, waiting until there are as many."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._outstanding + count <= (self._least if self._pressed else self._limit))
            self._outstanding += count

    async def free(self, count: int) -> None:
        """Give `count` places back."""
        async with self._changed:
            self._outstanding -= count
            self._changed.notify_all()

    async def press(self, pressed: bool) -> None:
        """Whether the store that holds the groups is nearly full."""
        async with self._changed:
            self._pressed = pressed
            self._changed.notify_all()
