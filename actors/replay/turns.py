"""What happens in each turn of the learner group: it is sent to engines, takes a step, or stops. Decided once, for all ranks alike.

Also how long a step that could be filled waits for older prompts under way before these are given up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from actors.errors import StaleAttempt
from actors.replay.ledger import State
from actors.replay.messages import QueueSpec
from actors.replay.news import News
from actors.replay.ready import Ready
from actors.replay.standing import Standing
from actors.replay.steps import Steps
from actors.types import Assignment, Resync, Stop


class Turns:
    """Decides by what the queue knows; decisions are events, handed to `record`."""

    def __init__(self, spec: QueueSpec, standing: Standing, news: News, ready: Ready, steps: Steps, record: Callable[..., None]) -> None:
        self._spec, self._standing, self._news, self._ready, self._steps = spec, standing, news, ready, steps
        self._record = record
        self._held_since: float | None = None  # loop time from which on nothing but prompts under way held the next step back
        self._patience_s = spec.stale_after_s
        self.engines = Resync(0, ())
        """Those that the learner group is to send its policy to."""

    def decide(self, turn: int, step: int) -> bool:
        """Fix what happens in this turn, if that can be said yet. StaleAttempt for a turn that is over."""
        standing = self._standing
        if turn < max(standing.turns, default=turn):
            raise StaleAttempt(f"turn {turn} is over")  # whoever asks so late must not freeze a step behind the others' backs
        if standing.stopping is not None:
            return True
        if self.engines.epoch > max(0, standing.resyncing):  # once each: a rank may ask again before rank 0 has confirmed
            if self._sampling_goes_on:
                return self._wait(held_back=bool(standing.waiting))
            self._record("resync", epoch=self.engines.epoch, attempt=standing.attempt, turn=turn)
            return True
        if self.engines.epoch == self._news.broken:
            return False  # until there are others, or the same are to be sent all of it again
        if step > self._spec.steps:
            if not self.engines.epoch:
                return False  # a driver that came for the last version's evaluation: engines must have it first
            self._record("stopping", reason="all steps done")
            return True
        if step in self._steps:
            self._record("reclaimed", step=step, attempt=standing.attempt, turn=turn)
            return True
        return self._freeze(turn, step)

    def verdict(self, turn: int, rank: int, ranks: int) -> Assignment:
        """What a decided turn means for one rank. StaleAttempt if its step is covered by a checkpoint already."""
        turns = self._standing.turns
        if turn not in turns:
            return Stop(self._standing.stopping or "")
        step = turns[turn]
        if step is None:
            return self.engines
        if step not in self._steps:
            raise StaleAttempt(f"turn {turn} is over")
        return self._steps.work(step, rank, ranks)

    @property
    def confirmed(self) -> int:
        """Epoch of the engines that last confirmed a version to the present attempt of the learner group.

        With exact staleness to any attempt: the present one may wait for what they sample with the version that they have.
        """
        return self._standing.served if self._spec.exact_staleness else self._standing.synced

    def patience_ends(self) -> float:
        """Loop time from which on a step that is held back now is held back too long."""
        now = asyncio.get_running_loop().time()
        return (now if self._held_since is None else self._held_since) + self._patience_s

    def overdue(self) -> list[int]:
        """The oldest prompts under way, once patience with them has ended; then it begins anew. None before."""
        if self._held_since is None or asyncio.get_running_loop().time() < self.patience_ends():
            return []
        self._held_since = None
        if self._spec.exact_staleness:  # no step goes without those that take their places, who may need as long
            self._patience_s *= 2
        waiting = self._standing.waiting
        oldest = min(waiting.values(), default=None)
        return [ordinal for ordinal, version in waiting.items() if version == oldest]

    @property
    def _sampling_goes_on(self) -> bool:
        """Whether a learner group that went back comes upon engines that sample a whole step with the version before it went back.

        With exact staleness they come to their end first: what they work on must not go on under an older version. New engines have
        no version yet, and are not waited for.
        """
        standing, following = self._standing, self._standing.reached + 1
        return (
            self._spec.exact_staleness
            and self.engines.epoch == standing.served
            and standing.reached < self._spec.steps
            and following not in self._steps
            and not self._ready.complete(following, len(standing.waiting))
        )

    def _wait(self, *, held_back: bool) -> bool:
        """Nothing is decided. held_back: only by prompts under way."""
        self._held_since = (self._held_since or asyncio.get_running_loop().time()) if held_back else None
        return False

    def _freeze(self, turn: int, step: int) -> bool:
        waiting = self._standing.waiting
        claim = self._ready.claim(step, waiting, self._standing.filtered)
        if claim is None:
            return self._wait(held_back=bool(waiting) and self._ready.fills(step))
        self._held_since, self._patience_s = None, self._spec.stale_after_s
        self._record(State.CLAIMED, ordinals=claim.ordinals, step=step, attempt=self._standing.attempt, turn=turn, filtered=claim.filtered)
        self._steps.keep(step, claim, self._ready.take(step, claim))
        return True
