"""Writing checkpoints behind the training's back: the copy is made at once, everything else in a thread of this rank.

    take ──► write (all ranks) ──► barrier ──► commit.json ──► `committed`      the last two on rank 0 alone

The ranks' threads meet over a process group of their own, so they never mix with the collectives of training. One checkpoint is
under way at a time: the next `save` waits for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import torch.distributed as dist

from actors.learner import checkpoint

if TYPE_CHECKING:
    from actors.learner.learner import Learner


class Saver:
    """One rank's writer. All ranks build it, `save` and `wait` together; a failure is raised by the next call on the rank it struck."""

    def __init__(self, root: str, *, keep: int, rank: int) -> None:
        self._root, self._keep, self._rank = root, keep, rank
        self._group = dist.new_group(backend="gloo")
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def save(self, learner: Learner, step: int, ledger: Sequence[Sequence[Any]], committed: Callable[[], None]) -> None:
        """Take a snapshot and return; `committed` is called on rank 0, from the thread, when the checkpoint counts."""
        self.wait()
        snapshot = checkpoint.take(learner, step=step, rank=self._rank, ledger=ledger)
        self._pending = self._thread.submit(self._write, snapshot, committed)

    def check(self) -> None:
        """Raise what went wrong in the thread, if anything has."""
        if self._pending is not None and self._pending.done():
            self._pending.result()

    def wait(self) -> None:
        """Return when nothing is under way any more."""
        if self._pending is not None:
            self._pending.result()

    def close(self) -> None:
        """Let the thread end; what it is writing stays uncommitted if the process ends first."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _write(self, snapshot: checkpoint.Snapshot, committed: Callable[[], None]) -> None:
        checkpoint.write(self._root, snapshot, self._group)
        dist.barrier(group=self._group)  # every rank's part has arrived
        if self._rank == 0:
            checkpoint.commit(self._root, snapshot.step)
            committed()
            checkpoint.prune(self._root, keep=self._keep)
