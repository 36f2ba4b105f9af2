"""Writing checkpoints behind the training's back: the copy is made at once, everything else in a thread of this rank.

    take ──► write ──► all ranks tell each other ──► `allowed` ──► commit.json ──► all ranks hear of it ──► `committed`

The ranks' threads meet over a process group of their own, so they never mix with the collectives of training. One checkpoint is
under way at a time: the next `save` waits for it. A checkpoint that cannot be written (a full disk) is taken away again and the run
goes on; the third in a row ends it.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import torch.distributed as dist
from torch.distributed.checkpoint import CheckpointException

from actors.errors import CheckpointError
from actors.learner import checkpoint, checkpoint_store
from actors.learner.checkpoint import Waiting

if TYPE_CHECKING:
    from actors.learner.learner import Learner

MOST_FAILURES = 3
"""Checkpoints in a row that may fail before the run does."""


class Saver:
    """One rank's writer. All ranks build it, `save` and `wait` together, and all of them hear of a failure of any."""

    def __init__(self, root: str, *, keep: int, rank: int, failed: Callable[[str], None] = lambda why: None) -> None:
        """`failed` is called on rank 0 for each checkpoint that could not be written."""
        self._root, self._keep, self._rank, self._failed = root, keep, rank, failed
        self._group = dist.new_group(backend="gloo")
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None
        self._failures = 0

    def save(
        self, learner: Learner, step: int, waiting: Waiting, committed: Callable[[], None], *, allowed: Callable[[], None] = lambda: None
    ) -> None:
        """Take a snapshot and return. On rank 0 `allowed` returns when the checkpoint may count, and `committed` hears that it does."""
        self.wait()
        snapshot = checkpoint.take(learner, step=step, rank=self._rank, waiting=waiting)
        self._pending = self._thread.submit(self._write, snapshot, allowed, committed)

    def check(self) -> None:
        """Raise what went wrong in the thread, if anything has that the run cannot go on with."""
        if self._pending is not None and self._pending.done():
            self._pending.result()

    def wait(self) -> None:
        """Return when nothing is under way any more."""
        if self._pending is not None:
            self._pending.result()

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is under way."""
        return self._pending is not None and not self._pending.done()

    @property
    def failures(self) -> int:
        """Checkpoints in a row that could not be written; the same on all ranks after `wait`."""
        return self._failures

    def close(self) -> None:
        """Let the thread end; what it is writing stays uncommitted if the process ends first."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        if not self.busy:  # else the group ends with the process
            dist.destroy_process_group(self._group)

    def _write(self, snapshot: checkpoint.Snapshot, allowed: Callable[[], None], committed: Callable[[], None]) -> None:
        files: checkpoint_store.Digests = {}
        failure = None
        try:
            files = checkpoint.write(self._root, snapshot, self._group)
        except (Exception, CheckpointException) as error:  # of whatever kind the storage has: told to all ranks
            failure = f"rank {self._rank}: {_reason(error)}"
        parts: list[Any] = [None] * dist.get_world_size(self._group)
        dist.all_gather_object(parts, (failure, files), group=self._group)
        outcome = [next((why for why, _ in parts if why), None)]
        if self._rank == 0 and outcome[0] is None:
            allowed()
            outcome[0] = self._commit(snapshot.step, {name: digest for _, part in parts for name, digest in part.items()})
        dist.broadcast_object_list(outcome, group=self._group, group_src=0)
        if outcome[0] is not None:
            self._give_up(snapshot.step, outcome[0])
            return
        self._failures = 0
        if self._rank == 0:
            committed()
            checkpoint_store.prune(self._root, keep=self._keep)

    def _commit(self, step: int, files: checkpoint_store.Digests) -> str | None:
        """Make it count; the reason where that cannot be written."""
        try:
            checkpoint_store.commit(self._root, step, files)
        except Exception as error:  # of whatever kind the storage has
            return _reason(error)
        return None

    def _give_up(self, step: int, why: str) -> None:
        self._failures += 1
        why = f"the checkpoint of step {step} could not be written: {why}"
        if self._rank == 0:
            checkpoint_store.discard(self._root, step)
            self._failed(why)
        if self._failures >= MOST_FAILURES:
            raise CheckpointError(f"{why} ({self._failures} in a row)")


def _reason(error: BaseException) -> str:
    """What went wrong, without the stacks of all ranks that torch gathers in an exception of its own (which is no Exception)."""
    if isinstance(error, CheckpointException):
        return "; ".join(dict.fromkeys(f"{type(one).__name__}: {one}" for one, _ in error.failures.values()))
    return str(error)
