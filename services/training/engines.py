"""The engines in service: the queue is told which there are, so that the learner sends its policy to them and to no other.

an engine is lost      -> the others go on; the learner joins them anew (Resync)
one is back            -> it is sent the present version; work comes to it once that is confirmed
a publication failed   -> the engine it names is ended and replaced; if none is named, all are sent everything again
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from actors.errors import WeightSyncError
from services.training.pool import Member, Pool, nobody

MOST_FAILURES = 5
"""Publications of one version that may fail before the run does."""


class Engines:
    """Stands between the generation pool and the queue."""

    def __init__(self, pool: Pool, queue: Any) -> None:
        self._pool, self._queue = pool, queue
        self._serving: list[Member] = []
        self._epochs: list[list[Member]] = [[]]  # by epoch: who was told of

    @property
    def epoch(self) -> int:
        """Number of the present set of engines; 0 before there is one."""
        return len(self._epochs) - 1

    @property
    def handles(self) -> list[Any]:
        """The present set."""
        return [member.handle for member in self._epochs[-1]]

    async def begin(self) -> None:
        """All members of the started pool enter service; returns when they have confirmed a version."""
        self._pool.lost, self._pool.back = self._lost, self._back
        self._serving = list(self._pool.members)
        await self._announce(self._serving)
        await self._queue.synced.remote(self.epoch)

    def leave(self) -> None:
        """Hear no more of the pool: it may serve another run."""
        self._pool.lost = self._pool.back = nobody

    async def follow(self) -> None:
        """See to failed publications until the queue closes. Raises the last error of a version that cannot be published."""
        seen, version, failures = 0, -1, 0
        while (found := await self._queue.next_unsynced.remote(seen)) is not None:
            epoch, error = found
            seen += 1
            failures = failures + 1 if error.version == version else 1
            version = error.version
            if failures >= MOST_FAILURES:
                raise error
            await self._mend(epoch, error)

    async def _mend(self, epoch: int, error: WeightSyncError) -> None:
        culprit = self._epochs[epoch][error.engine] if isinstance(error.engine, int) else None
        if culprit is not None and culprit in self._serving:
            self._serving.remove(culprit)
            await self._pool.end(culprit)
        if epoch == self.epoch and self._serving:
            await self._announce(self._serving)

    async def _lost(self, member: Member, why: str) -> None:
        await self._queue.note.remote("engine_lost", f"engine {member.index}: {why}", engine=member.index)
        if member in self._serving:
            self._serving.remove(member)
        if member in self._epochs[-1] and self._serving:
            await self._announce(self._serving)

    async def _back(self, member: Member, why: str) -> None:
        if member not in self._serving:
            self._serving.append(member)
        await self._announce(self._serving)
        await self._queue.synced.remote(self.epoch)
        await self._queue.note.remote("engine_back", f"engine {member.index}: {why}", engine=member.index)

    async def _announce(self, members: Sequence[Member]) -> None:
        self._epochs.append(sorted(members, key=lambda member: member.index))
        await self._queue.set_engines.remote(self.handles, self.epoch)
