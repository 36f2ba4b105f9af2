"""The replay queue: where rollouts wait for the learner. It holds object references and metadata, never payloads.

A group's life here is waiting (running elsewhere) -> ready -> claimed -> released. Whoever waits is woken by a condition, never by
polling, and by `close`. The driver owns the objects; the queue lends their references to the ranks that claim them.

All it knows is the sum of the events it wrote (`Standing`), and what its owner keeps. So when its process dies, Ray starts another,
which reads the events, is given the rest by `begin_with`, and answers the calls that were under way: each may safely come twice.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from actors.errors import GmpoError, LostGroup, QueueClosed, QueueLost, StaleAttempt, WeightSyncError
from actors.replay import recovery
from actors.replay.history import History, read
from actors.replay.ledger import FINAL, Ledger, State
from actors.replay.messages import Arrival, Belongings, Published, QueueSpec, Recall, Snapshot
from actors.replay.news import News
from actors.replay.ready import Ready
from actors.replay.selection import tells_apart
from actors.replay.standing import Event, Standing
from actors.replay.steps import Steps
from actors.replay.turns import Turns
from actors.types import Assignment, Held, Resync, StepResult


class ReplayQueue:
    """Groups in, a step's shares out.

    The conductor calls `begin_with`, `admit`, `put`, `drop`, `set_engines`, `next_published`, `stop`; every learner rank calls `claim`,
    rank 0 also `begin`, `confirm`, `unsynced`, `ack` and `commit`. Example of one step:

        admit([0, 1]); put(meta 0); put(meta 1); claim(turn, step=1, rank=0) -> Work; ack(1) -> next_published() returns
    """

    def __init__(self, spec: QueueSpec, ledger: Sequence[Sequence[Any]] = (), step: int = 0) -> None:
        self._spec = spec
        self._standing = Standing(Ledger.restore(ledger))
        self._history = History(spec.history)  # from here on nobody else writes to it
        past = list(read(spec.history))
        begun = next((index for index, event in enumerate(past) if event.get("session") == spec.session), None)
        self._news = News()
        self._past = past[begun:] if begun is not None else []  # of this driver's life
        self._reached = max((event["step"] for event in past[:begun] if event["event"] == State.TRAINED), default=0)  # by earlier ones
        if begun is None:
            self._standing.publications = Standing.of(past).publications
            self._record("resumed" if step else "started", session=spec.session, step=step)
        else:
            self._history.write("rebuilt", session=spec.session)
        for event in self._past:
            self._apply(event)
        self._given = asyncio.Event()  # the driver's belongings have come
        self._ready = Ready(spec)
        self._steps = Steps(spec)
        self._published: dict[int, Published] = {}
        self._taken = step  # newest step whose publication the conductor has seen
        self._turns = Turns(spec, self._standing, self._news, self._ready, self._steps, self._record)
        failed = [GmpoError(event["error"]) for event in self._past if event["event"] == "failed"]
        self._failure: GmpoError | None = failed[-1] if failed else None
        self._closed = any(event["event"] == "closed" for event in self._past)
        if self._closed:
            self._given.set()  # whoever still asks is told so
            self._history.close()
        self._changed = asyncio.Condition()
        self._claim_wait_s = 0.0

    def _record(self, kind: str, **fields: Any) -> None:
        """An event happens: first in this process, which refuses what cannot be, then on disk."""
        self._apply({"event": kind, **fields})
        self._history.write(kind, **fields)

    def _apply(self, event: Event) -> None:
        self._standing.apply(event)
        self._news.apply(event)

    # --- the conductor's side ------------------------------------------------------------------------------------------------

    async def begin_with(self, own: Belongings) -> None:
        """What the driver holds; until it comes nothing is handed out. Steps recorded beyond the checkpoint are claimed unchanged."""
        async with self._changed:
            if self._given.is_set():
                return
            self._ready.recorded = own.recorded
            self._ready.forget(self._standing.forgotten)
            for kind, fields in recovery.missing_events(self._standing, own.groups, self._ready.recorded, self._reached):
                self._record(kind, **fields)
            ledger = self._standing.ledger
            self._ready.update({ordinal: held for ordinal, held in own.groups.items() if ledger[ordinal].state is State.READY})
            for step, claim in self._standing.claims.items():
                self._steps.keep(step, claim, own.groups)
            unheard = recovery.unheard(self._past, own.groups, self._steps, self._standing.committed)
            self._published = {published.step: published for published in unheard}
            self._turns.engines = Resync(own.epoch, tuple(own.engines))
            self._given.set()
            self._changed.notify_all()

    async def resume_point(self) -> tuple[list[int], int]:
        """(ordinals to issue again, first ordinal never admitted)."""
        await self._given.wait()
        ledger = self._standing.ledger
        return [ordinal for ordinal in ledger.unfinished() if ordinal not in self._ready], ledger.next_ordinal()

    async def admit(self, ordinals: Sequence[int]) -> None:
        """These prompts enter the run (again, if their work was lost). Those that left it for good meanwhile stay out."""
        async with self._open():
            ledger = self._standing.ledger
            entering = [ordinal for ordinal in ordinals if ordinal not in ledger or ledger[ordinal].state not in FINAL]
            if entering:
                self._record(State.ADMITTED, ordinals=entering, version=self._standing.version)
            for ordinal in entering:
                self._ready.pop(ordinal, None)

    async def put(self, arrivals: Sequence[Arrival]) -> list[bool]:
        """Groups have come through the pools; waits while the queue is full. False: it was dropped, now or before, and its ref let go."""
        return [await self._take_in(arrival.held, arrival.stages, arrival.seconds) for arrival in arrivals]

    async def _take_in(self, held: Held, stages: Sequence[State], seconds: Mapping[str, float]) -> bool:
        meta, _ = held
        async with self._open():
            if self._settled(meta.ordinal):
                return self._standing.ledger[meta.ordinal].state is not State.DROPPED
            filtered = self._spec.dynamic_sampling and not tells_apart(meta)
            await self._changed.wait_for(lambda: self._closed or filtered or self._ready.has_room)
            self._check_open()
            if filtered:
                self._drop(meta.ordinal, "filtered")
                return False
            if self._settled(meta.ordinal):  # while this call waited for room
                return self._standing.ledger[meta.ordinal].state is not State.DROPPED
            self._record(State.READY, ordinals=[meta.ordinal], stages=list(stages), versions=list(meta.versions), seconds=dict(seconds))
            self._ready[meta.ordinal] = held
            self._changed.notify_all()
            return True

    def _settled(self, ordinal: int) -> bool:
        """Whether this prompt's group was already taken in, or given up: the call is the second of its kind, or came too late."""
        return ordinal in self._standing.ledger and ordinal not in self._standing.waiting

    async def drop(self, ordinal: int, reason: str) -> None:
        """A prompt leaves the run; another may be admitted in its place."""
        async with self._open():
            if self._standing.ledger[ordinal].state not in FINAL:
                self._drop(ordinal, reason)

    def _drop(self, ordinal: int, reason: str, **recall: str) -> None:
        self._record(State.DROPPED, ordinals=[ordinal], reason=reason, step=self._standing.version + 1, **recall)
        self._ready.pop(ordinal, None)
        self._changed.notify_all()

    async def next_recalls(self, after: int) -> list[Recall]:
        """The recalls of this driver's life beyond the first `after`, once there are any; none if the queue closes first."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._closed or len(self._news.recalls) > after)
            return self._news.recalls[after:]

    async def recorded(self, step: int) -> None:
        """What the step was trained on is on disk (or is not to be): a checkpoint may cover it."""
        async with self._open():
            if step > self._standing.recorded:
                self._record("recorded", step=step)
                self._changed.notify_all()

    async def set_engines(self, engines: Sequence[Any], epoch: int) -> None:
        """The engines changed, or must be sent the present version anew: the next verdict is Resync, for every rank."""
        async with self._open():
            if epoch > self._turns.engines.epoch:
                self._turns.engines = Resync(epoch, tuple(engines))
                self._changed.notify_all()

    async def note(self, event: str, why: str, **fields: Any) -> None:
        """For the history and the console: something happened that moves no prompt."""
        async with self._open():
            self._record(event, why=why, **fields)
            self._changed.notify_all()

    async def next_notes(self, after: int) -> list[str]:
        """The notes of this driver's life beyond the first `after`, once there are any; none if the queue closes first."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._closed or len(self._news.notes) > after)
            return self._news.notes[after:]

    async def next_published(self, after: int) -> Published | None:
        """The publication of step `after + 1`, once it is there; None if the queue closes first. Raises what `fail` was told."""
        async with self._changed:
            self._taken = max(self._taken, after)
            self._published = {step: published for step, published in self._published.items() if step > after}
            await self._changed.wait_for(lambda: self._closed or after + 1 in self._published)
            if self._failure is not None and after + 1 not in self._published:
                raise self._failure
            return self._published.get(after + 1)

    async def next_unsynced(self, after: int) -> tuple[int, WeightSyncError] | None:
        """(epoch of engines, error) of failed publication number `after + 1`, once there is one; None if the queue closes first."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._closed or len(self._news.unsynced) > after)
            return self._news.unsynced[after] if len(self._news.unsynced) > after else None

    async def synced(self, epoch: int = 0) -> int:
        """Waits until the present engines (of `epoch` at least) confirmed a version; returns it."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._closed or self._turns.confirmed == self._turns.engines.epoch >= epoch)
            self._check_open()
            return self._standing.version

    def failure(self) -> GmpoError | None:
        """What `fail` was told."""
        return self._failure

    async def stop(self, reason: str) -> None:
        """No further step: the learner's next claim is answered with Stop."""
        async with self._changed:
            if self._standing.stopping is None and not self._closed:
                self._record("stopping", reason=reason)
                self._changed.notify_all()

    async def closed(self) -> None:
        """Waits until the queue closes: the driver learns from this call that its process died, or at once that it knows nothing yet.

        Raises QueueLost where the driver has not said what it holds.
        """
        if not self._given.is_set() and not self._closed:
            raise QueueLost("the replay queue waits for what its owner holds")
        async with self._changed:
            await self._changed.wait_for(lambda: self._closed)

    async def close(self) -> None:
        """Wake every waiter with QueueClosed (or None) and refuse what comes; may be called twice."""
        async with self._changed:
            if self._closed:
                return
            self._closed = True
            self._given.set()
            self._changed.notify_all()
            self._history.write("closed", account=self._standing.ledger.account())
            self._history.close()

    def metrics(self) -> dict[str, float]:
        """Present depth of each stage, and the account so far."""
        account = self._standing.ledger.account()
        return {
            "queue/depth": float(len(self._ready)),
            "queue/claimed": float(account[State.CLAIMED]),
            "generation/running": float(len(self._standing.waiting)),
            "ledger/trained": float(account[State.TRAINED]),
            "ledger/dropped": float(account[State.DROPPED]),
            "weights/failures": float(len(self._news.unsynced)),
            "generation/engines_lost": float(self._standing.engines_lost),
            "learner/attempts": float(self._standing.attempt),
        }

    def account(self) -> dict[str, int]:
        """Prompts in each state."""
        return self._standing.ledger.account()

    # --- the learner's side --------------------------------------------------------------------------------------------------

    async def begin(self) -> tuple[int, int]:
        """A learner group takes over and fences every earlier one. Returns (its attempt number, the step whose checkpoint it restores)."""
        async with self._open():
            standing = self._standing
            self._record("learner", attempt=standing.attempt + 1, step=standing.committed)
            self._changed.notify_all()
            return standing.attempt, standing.committed

    async def claim(self, turn: int, step: int, rank: int, ranks: int, attempt: int) -> Assignment:
        """What a rank does in its `turn`-th turn: the same verdict for all ranks, frozen by whoever asks first. Idempotent."""
        began = time.monotonic()
        async with self._open():
            while not await self._decided(turn, step, attempt):
                for ordinal in self._turns.overdue():
                    self._drop(ordinal, "stale", recall="stale")
            self._check_attempt(attempt)
            if rank == 0:
                self._claim_wait_s = time.monotonic() - began
            return self._turns.verdict(turn, rank, ranks)

    async def _decided(self, turn: int, step: int, attempt: int) -> bool:
        """Wait until it is known what happens in this turn; False if it is time to look whether the step is held back too long."""

        def decided() -> bool:
            if self._closed or attempt != self._standing.attempt or turn in self._standing.turns:
                return True
            if self._turns.decide(turn, step):
                self._changed.notify_all()  # there may be room again
                return True
            return False

        try:
            async with asyncio.timeout_at(self._turns.patience_ends()):
                return await self._changed.wait_for(decided)
        except TimeoutError:
            return False

    async def confirm(self, epoch: int, version: int, digest: str, attempt: int) -> None:
        """Every engine of `epoch` samples with `version` now."""
        async with self._open():
            self._check_attempt(attempt)
            self._publish(epoch, version, digest)

    async def unsynced(self, epoch: int, error: WeightSyncError, attempt: int) -> None:
        """The publication to the engines of `epoch` failed; the learner waits for others, or for these once more."""
        async with self._open():
            self._check_attempt(attempt)
            if self._news.broken < epoch:
                detail = error.detail[:500]
                self._record("unsynced", engine=error.engine, phase=error.phase, version=error.version, epoch=epoch, error=detail)
                self._changed.notify_all()

    async def ack(self, result: StepResult, digest: str, attempt: int) -> None:
        """A step is trained and its version published: its groups are done, provisionally until a checkpoint covers them."""
        async with self._open():
            self._check_attempt(attempt)
            standing, frozen = self._standing, self._steps[result.version]
            if standing.ledger[frozen.ordinals[0]].state is not State.TRAINED:
                self._record(State.TRAINED, ordinals=frozen.ordinals, step=frozen.step, digest=digest)
            metrics = {**frozen.metrics, **result.metrics, **self.metrics(), "queue/wait_s": self._claim_wait_s}
            self._publish(standing.resyncing, result.version, digest, metrics=metrics)
            if frozen.step > self._taken:
                result = StepResult(frozen.step, metrics)
                self._published[frozen.step] = Published(frozen.step, frozen, result, time.time(), standing.committed)
                self._changed.notify_all()

    def _publish(self, epoch: int, version: int, digest: str, **figures: Mapping[str, float]) -> None:
        self._record("published", number=self._standing.publications + 1, version=version, epoch=epoch, digest=digest, **figures)
        self._changed.notify_all()

    async def lost(self, step: int, ordinals: Sequence[int], attempt: int) -> None:
        """Groups of a claimed step are gone: it is broken up, they are issued again. LostGroup if it was trained before."""
        async with self._open():
            self._check_attempt(attempt)
            if step not in self._steps:
                return
            if self._standing.trained >= step:
                raise LostGroup(f"step {step} is to be trained again and prompts {list(ordinals)} are gone; go on from the checkpoint")
            groups = self._steps.break_up(step)
            self._record("unclaimed", step=step, ordinals=list(groups))
            if step <= self._standing.recorded:  # by an earlier driver; later recorded steps would hold places that this one needs now
                self._record("forgotten", step=step)
                self._ready.forget(step)
            self._ready |= groups
            for ordinal in ordinals:
                del self._ready[ordinal]
            self._record(State.ADMITTED, ordinals=list(ordinals), version=self._standing.version, recall="lost")
            self._changed.notify_all()

    async def snapshot(self, attempt: int) -> Snapshot:
        """For a checkpoint of the present moment."""
        async with self._open():
            self._check_attempt(attempt)
            return Snapshot(self._standing.ledger.snapshot(), self._ready.lasting(self._standing.version))

    async def coverable(self, step: int, attempt: int) -> None:
        """Waits until a checkpoint of `step` may be committed: never before what it was trained on is on disk."""
        await self._given.wait()
        async with self._changed:
            await self._changed.wait_for(lambda: self._closed or attempt != self._standing.attempt or step <= self._standing.recorded)
            if step > self._standing.recorded:
                self._check_attempt(attempt)

    async def commit(self, step: int, attempt: int) -> None:
        """A checkpoint covers `step`: what led up to it will not be asked for again, and its objects may go."""
        async with self._open():
            self._check_attempt(attempt)
            if step > self._standing.committed:
                self._record("committed", step=step)
                self._steps.settle(step)

    async def fail(self, error: GmpoError, attempt: int) -> None:
        """The learner group cannot go on, and starting again would not help: the queue closes, and the conductor is told why."""
        self._check_attempt(attempt)
        if not self._closed:
            self._record("failed", error=f"{error.__class__.__name__}: {error}"[:2000])
        self._failure = error
        await self.close()

    # --- both ----------------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[None]:
        """Alone with a queue that has begun and is not closed."""
        await self._given.wait()
        async with self._changed:
            self._check_open()
            yield

    def _check_open(self) -> None:
        if self._closed:
            raise QueueClosed("the replay queue is closed")

    def _check_attempt(self, attempt: int) -> None:
        self._check_open()
        if attempt != self._standing.attempt:
            raise StaleAttempt(f"attempt {attempt} was replaced by {self._standing.attempt}")
