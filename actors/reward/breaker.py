"""Ends a run whose verifiers are broken, before it trains on the little that they still let through."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from actors.errors import VerifiersBroken
from actors.types import Outcome

WINDOW = 200
MIN_SEEN = 50


class Breaker:
    """Watches the last verifications of one actor.

    Only CRASH counts, which is also what a child that does not start is recorded as: those are faults of ours. TIMEOUT and OOM are masked
    like them, but a response can bring them about; counted, a policy that learns to write bombs could end the run.
    """

    def __init__(self, max_fault_share: float) -> None:
        self._max_share = max_fault_share
        self._crashed: deque[bool] = deque(maxlen=WINDOW)

    def record(self, outcomes: Iterable[Outcome], detail: str | None = None) -> None:
        """Take note of verifications. Raises VerifiersBroken if more than the allowed share of the last ones crashed."""
        self._crashed.extend(outcome is Outcome.CRASH for outcome in outcomes)
        crashed, seen = sum(self._crashed), len(self._crashed)
        if seen >= MIN_SEEN and crashed > self._max_share * seen:
            raise VerifiersBroken(
                f"{crashed} of the last {seen} verifications crashed (reward.max_fault_share: {self._max_share}); the last one said: "
                f"{detail!r}"
            )
