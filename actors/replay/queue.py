"""The replay queue: where rollouts wait for the learner. It holds object references and metadata, never payloads.

A group's life here is waiting (running elsewhere) -> ready -> claimed -> released. Whoever waits is woken by a condition, never by
polling, and by `close`. The driver owns the objects; the queue lends their references to the ranks that claim them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.errors import GmpoError, QueueClosed, StaleAttempt
from actors.replay.freeze import Advantages, FrozenStep, freeze, share
from actors.replay.history import History
from actors.replay.ledger import Ledger, State
from actors.replay.selection import choose, tells_apart
from actors.types import Assignment, GroupMeta, Resync, StepResult, Stop, Work


@dataclass(frozen=True, slots=True)
class QueueSpec:
    """What the queue must know of the run."""

    prompts_per_step: int
    updates_per_step: int
    max_staleness: int
    capacity: int  # groups held ready; a further `put` waits
    steps: int  # the last step of the run
    seed: int
    skip_zero_advantage: bool
    dynamic_sampling: bool  # drop groups that have nothing to compare
    advantages: Advantages
    history: Path  # ledger.jsonl


@dataclass(frozen=True, slots=True)
class Published:
    """A step that was trained and whose version every engine has confirmed."""

    step: int
    frozen: FrozenStep
    result: StepResult
    time: float  # when, unix seconds


class ReplayQueue:
    """Groups in, a step's shares out.

    The conductor calls `admit`, `put`, `drop`, `set_engines`, `next_published`, `stop`; every learner rank calls `claim`, rank 0
    also `begin`, `ack` and `commit`. Example of one step:

        admit([0, 1]); put(meta 0); put(meta 1); claim(turn, step=1, rank=0) -> Work; ack(1) -> next_published() returns
    """

    def __init__(self, spec: QueueSpec, snapshot: Sequence[Sequence[Any]] = (), step: int = 0) -> None:
        self._spec = spec
        self._ledger = Ledger.restore(snapshot).rolled_back(step)
        self._history = History(spec.history)
        self._history.write("resumed" if step else "started", step=step)
        self._waiting: dict[int, int] = {}  # ordinal -> version at admission
        self._ready: dict[int, tuple[GroupMeta, Any]] = {}
        self._steps: dict[int, tuple[FrozenStep, dict[int, Any]]] = {}  # frozen steps not yet covered by a checkpoint
        self._published: dict[int, Published] = {}
        self._filtered = 0  # groups dropped since the last step was frozen
        self._version = self._committed = step
        self._attempt = 0
        self._verdicts: dict[int, FrozenStep | Resync | Stop] = {}  # by turn, of the present attempt
        self._engines = Resync(0, ())
        self._synced = -1  # epoch whose engines have confirmed a version
        self._resyncing = -1  # epoch that the present attempt was last told to join
        self._stop: Stop | None = None
        self._closed = False
        self._failure: GmpoError | None = None
        self._changed = asyncio.Condition()
        self._claim_wait_s = 0.0

    # --- the conductor's side ------------------------------------------------------------------------------------------------

    def resume_point(self) -> tuple[list[int], int]:
        """(ordinals to issue again, first ordinal never admitted)."""
        return self._ledger.unfinished(), self._ledger.next_ordinal()

    async def admit(self, ordinals: Sequence[int]) -> None:
        """These prompts enter the run (again, if their work was lost)."""
        async with self._changed:
            self._check_open()
            for ordinal in ordinals:
                self._ledger.move(ordinal, State.ADMITTED)
                self._ready.pop(ordinal, None)
                self._waiting[ordinal] = self._version
            self._history.write(State.ADMITTED, ordinals=list(ordinals), version=self._version)

    async def put(self, meta: GroupMeta, ref: Sequence[Any], stages: Sequence[State], seconds: dict[str, float]) -> bool:
        """A group has come through the pools; waits while the queue is full. False: it was dropped as filtered, and its ref let go.

        `ref` is wrapped in a sequence: Ray hands over the reference, not the object.
        """
        async with self._changed:
            filtered = self._spec.dynamic_sampling and not tells_apart(meta)
            await self._changed.wait_for(lambda: self._closed or filtered or len(self._ready) < self._spec.capacity)
            self._check_open()
            for state in stages:
                self._ledger.move(meta.ordinal, state)
            if filtered:
                self._filtered += 1
                self._drop(meta.ordinal, "filtered")
                return False
            self._ledger.move(meta.ordinal, State.READY)
            del self._waiting[meta.ordinal]
            self._ready[meta.ordinal] = meta, ref[0]
            self._history.write(State.READY, ordinals=[meta.ordinal], versions=list(meta.versions), seconds=seconds)
            self._changed.notify_all()
            return True

    async def drop(self, ordinal: int, reason: str) -> None:
        """A prompt leaves the run; another may be admitted in its place."""
        async with self._changed:
            self._check_open()
            self._drop(ordinal, reason)

    def _drop(self, ordinal: int, reason: str) -> None:
        self._ledger.move(ordinal, State.DROPPED, step=self._version + 1, reason=reason)
        self._waiting.pop(ordinal, None)
        self._ready.pop(ordinal, None)
        self._history.write(State.DROPPED, ordinals=[ordinal], reason=reason)
        self._changed.notify_all()

    async def set_engines(self, engines: Sequence[Any]) -> None:
        """The engines changed: the next verdict is Resync, for every rank."""
        async with self._changed:
            self._engines = Resync(self._engines.epoch + 1, tuple(engines))
            self._changed.notify_all()

    async def next_published(self, after: int) -> Published | None:
        """The publication of step `after + 1`, once it is there; None if the queue closes first. Raises what `fail` was told."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._closed or after + 1 in self._published)
            if self._failure is not None and after + 1 not in self._published:
                raise self._failure
            return self._published.pop(after + 1, None)

    async def synced(self) -> int:
        """Waits until the present engines confirmed a version; returns it."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._closed or self._synced == self._engines.epoch)
            self._check_open()
            return self._version

    async def stop(self, reason: str) -> None:
        """No further step: the learner's next claim is answered with Stop."""
        async with self._changed:
            self._stop = Stop(reason)
            self._changed.notify_all()

    async def close(self) -> None:
        """Wake every waiter with QueueClosed (or None) and refuse what comes; may be called twice."""
        async with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()
            self._history.write("closed", account=self._ledger.account())
            self._history.close()

    def metrics(self) -> dict[str, float]:
        """Present depth of each stage, and the account so far."""
        account = self._ledger.account()
        return {
            "queue/depth": float(len(self._ready)),
            "queue/claimed": float(account[State.CLAIMED]),
            "generation/running": float(len(self._waiting)),
            "ledger/trained": float(account[State.TRAINED]),
            "ledger/dropped": float(account[State.DROPPED]),
            "learner/attempts": float(self._attempt),
        }

    def account(self) -> dict[str, int]:
        """Prompts in each state."""
        return self._ledger.account()

    # --- the learner's side --------------------------------------------------------------------------------------------------

    async def begin(self) -> tuple[int, int]:
        """A learner group takes over and fences every earlier one. Returns (its attempt number, the step whose checkpoint it restores)."""
        async with self._changed:
            self._check_open()
            self._attempt += 1
            self._verdicts.clear()
            self._synced = self._resyncing = -1
            self._version = self._committed
            self._history.write("learner", attempt=self._attempt, step=self._committed)
            self._changed.notify_all()
            return self._attempt, self._committed

    async def claim(self, turn: int, step: int, rank: int, ranks: int, attempt: int) -> Assignment:
        """What a rank does in its `turn`-th turn: the same verdict for all ranks, frozen by whoever asks first. Idempotent."""
        began = time.monotonic()
        async with self._changed:
            await self._changed.wait_for(lambda: self._closed or attempt != self._attempt or self._decide(turn, step) is not None)
            self._check_open()
            if attempt != self._attempt:
                raise StaleAttempt(f"attempt {attempt} was replaced by {self._attempt}")
            if rank == 0:
                self._claim_wait_s = time.monotonic() - began
            verdict = self._verdicts[turn]
        return self._share(verdict, rank, ranks) if isinstance(verdict, FrozenStep) else verdict

    def _decide(self, turn: int, step: int) -> FrozenStep | Resync | Stop | None:
        if turn not in self._verdicts:
            if turn < max(self._verdicts, default=turn):
                raise StaleAttempt(f"turn {turn} is over")  # whoever asks so late must not freeze a step behind the others' backs
            verdict = self._verdict(step)
            if verdict is None:
                return None
            self._verdicts = {turn: verdict} | {old: kept for old, kept in self._verdicts.items() if old >= turn - 1}
        return self._verdicts[turn]

    def _verdict(self, step: int) -> FrozenStep | Resync | Stop | None:
        if self._stop is not None:
            return self._stop
        if self._engines.epoch > max(0, self._resyncing):  # once each: a rank may ask again before rank 0 has confirmed
            self._resyncing = self._engines.epoch
            return self._engines
        if step > self._spec.steps:
            return Stop("all steps done")
        if step in self._steps:
            return self._steps[step][0]
        return self._freeze(step)

    def _freeze(self, step: int) -> FrozenStep | None:
        ready = {ordinal: meta.versions[0] for ordinal, (meta, _) in self._ready.items()}
        spec = self._spec
        chosen = choose(step, ready, self._waiting, size=spec.prompts_per_step, max_staleness=spec.max_staleness)
        if chosen is None:
            return None
        taken = {ordinal: self._ready.pop(ordinal) for ordinal in chosen}
        self._changed.notify_all()  # there is room again
        for ordinal in chosen:
            self._ledger.move(ordinal, State.CLAIMED, step=step)
        self._history.write(State.CLAIMED, ordinals=chosen, step=step)
        frozen = freeze(
            step,
            [meta for meta, _ in taken.values()],
            advantages=spec.advantages,
            updates=spec.updates_per_step,
            seed=spec.seed,
            skip_zero_advantage=spec.skip_zero_advantage,
            filtered=self._filtered if spec.dynamic_sampling else None,
        )
        self._filtered = 0
        self._steps[step] = frozen, {ordinal: ref for ordinal, (_, ref) in taken.items()}
        return frozen

    def _share(self, frozen: FrozenStep, rank: int, ranks: int) -> Work:
        rows = share(frozen, rank, ranks)
        needed = sorted({row.group for row in rows})
        place = {group: index for index, group in enumerate(needed)}
        refs = self._steps[frozen.step][1]
        ordinals = tuple(frozen.metas[group].ordinal for group in needed)
        return Work(
            step=frozen.step,
            ordinals=ordinals,
            refs=tuple(refs[ordinal] for ordinal in ordinals),
            rows=tuple(row._replace(group=place[row.group]) for row in rows),
            totals=frozen.totals,
            metrics=frozen.metrics,
        )

    async def confirm(self, epoch: int, version: int, attempt: int) -> None:
        """Every engine of `epoch` samples with `version` now."""
        async with self._changed:
            self._check_attempt(attempt)
            self._synced, self._version = epoch, version
            self._changed.notify_all()

    async def ack(self, result: StepResult, attempt: int) -> None:
        """A step is trained and its version published: its groups are done, provisionally until a checkpoint covers them."""
        async with self._changed:
            self._check_attempt(attempt)
            frozen = self._steps[result.version][0]
            if self._ledger[frozen.ordinals[0]].state is not State.TRAINED:
                for ordinal in frozen.ordinals:
                    self._ledger.move(ordinal, State.TRAINED, step=frozen.step)
                self._history.write(State.TRAINED, ordinals=list(frozen.ordinals), step=frozen.step)
                metrics = {**frozen.metrics, **result.metrics, **self.metrics(), "queue/wait_s": self._claim_wait_s}
                self._published[frozen.step] = Published(frozen.step, frozen, StepResult(result.version, metrics), time.time())
            self._version = result.version
            self._changed.notify_all()

    async def snapshot(self, attempt: int) -> list[list[Any]]:
        """The ledger, for a checkpoint."""
        self._check_attempt(attempt)
        return self._ledger.snapshot()

    async def commit(self, step: int, attempt: int) -> None:
        """A checkpoint covers `step`: what led up to it will not be asked for again, and its objects may go."""
        async with self._changed:
            self._check_open()
            self._check_attempt(attempt)
            self._committed = step
            self._history.write("committed", step=step)
            self._steps = {later: kept for later, kept in self._steps.items() if later > step}

    async def fail(self, error: GmpoError, attempt: int) -> None:
        """The learner group cannot go on, and starting again would not help: the queue closes, and the conductor is told why."""
        self._check_attempt(attempt)
        self._failure = error
        await self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise QueueClosed("the replay queue is closed")

    def _check_attempt(self, attempt: int) -> None:
        self._check_open()
        if attempt != self._attempt:
            raise StaleAttempt(f"attempt {attempt} was replaced by {self._attempt}")
