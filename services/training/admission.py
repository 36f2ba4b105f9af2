"""How far generation may run ahead: a prompt is admitted only while there is room under the staleness bound."""

from __future__ import annotations

import asyncio


class Admission:
    """Counts the prompts under way. A place is freed when its step is published; where a prompt is dropped, another takes its place.

    `limit` is (max_staleness + 1) x prompts_per_step. While the object store is nearly full (`press`) nothing is admitted before what is
    under way has come out; with nothing under way a step is let in all the same, for waiting would free nothing.
    """

    def __init__(self, limit: int, *, taken: int = 0) -> None:
        self._limit = limit
        self._outstanding = taken
        self._pressed = False
        self._changed = asyncio.Condition()

    async def admit(self, count: int) -> None:
        """Take `count` places, waiting until there are as many."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._outstanding + count <= self._limit and not (self._pressed and self._outstanding))
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
