"""What the learner group works on: one run, or one run after another without starting anew between them.

driver:   begin(spec) ──► number 1 ─────► left(1) returns ──► begin(spec) ──► number 2 ...  finish()
group:    next(0) ──► 1 ──► the run ──► next(1) ... waits ──────────────────► 2 ...         None
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import ray

from actors.errors import StaleAttempt

if TYPE_CHECKING:
    from actors.learner.loop import LoopSpec


class Agenda(Protocol):
    """Runs by number, from 1 on. Picklable: each rank has one."""

    def next(self, left: int) -> int | None:
        """The number of the present run, once that is above `left`; None once there will be no more."""
        ...

    def spec(self, number: int) -> LoopSpec:
        """The present run, whose number this is."""
        ...


@dataclass(frozen=True, slots=True)
class OneRun:
    """The agenda of a group that is started for one run."""

    only: LoopSpec

    def next(self, left: int) -> int | None:
        """See Agenda."""
        return 1 if left < 1 else None

    def spec(self, number: int) -> LoopSpec:
        """See Agenda."""
        return self.only


class Board:
    """An actor on which the driver writes the present run, and from which the group learns of it.

    After a restart the group finds the present run there and takes it up again, unless it had left it.
    """

    def __init__(self) -> None:
        self._number = self._left = 0
        self._spec: LoopSpec | None = None
        self._finished = False
        self._changed = asyncio.Condition()

    async def begin(self, spec: LoopSpec) -> int:
        """Write down the next run; its number."""
        async with self._changed:
            self._number, self._spec = self._number + 1, spec
            self._changed.notify_all()
            return self._number

    async def finish(self) -> None:
        """There will be no more."""
        async with self._changed:
            self._finished = True
            self._changed.notify_all()

    async def left(self, number: int) -> None:
        """Waits until the group has asked for what comes after this run."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._left >= number)

    async def next(self, left: int) -> int | None:
        """See Agenda."""
        async with self._changed:
            self._left = max(self._left, left)
            self._changed.notify_all()
            await self._changed.wait_for(lambda: self._finished or self._number > self._left)
            return self._number if self._number > self._left else None

    async def spec(self, number: int) -> LoopSpec:
        """See Agenda. StaleAttempt for a run that is over."""
        if self._spec is None or number != self._number:
            raise StaleAttempt(f"run {number} is over")
        return self._spec


@dataclass(frozen=True, slots=True)
class ManyRuns:
    """The agenda that stands on a board."""

    board: Any  # handle of the Board actor

    def next(self, left: int) -> int | None:
        """See Agenda."""
        number: int | None = ray.get(self.board.next.remote(left))
        return number

    def spec(self, number: int) -> LoopSpec:
        """See Agenda."""
        found: LoopSpec = ray.get(self.board.spec.remote(number))
        return found
