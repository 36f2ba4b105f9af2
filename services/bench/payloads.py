"""Both ends of the queue's benchmark: actors that make payloads, and one that takes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from actors.types import GroupMeta, Outcome, StepResult, Work

Payload = NDArray[np.uint8]


class Producers:
    """Some of the producers: makes payloads that carry their ordinal."""

    def __init__(self, kib: int) -> None:
        self._payload = np.zeros(kib * 1024, dtype=np.uint8)

    def payload(self, ordinal: int) -> Payload:
        """One group's bytes."""
        self._payload[:8] = np.frombuffer(np.int64(ordinal).tobytes(), dtype=np.uint8)
        return self._payload

    def put(self, ordinal: int) -> Any:
        """The same, put into the object store by this process."""
        return ray.put(self.payload(ordinal))

    def group(self, ordinal: int, version: int) -> tuple[GroupMeta, Payload]:
        """The same with its metadata, as an engine answers."""
        meta = GroupMeta(ordinal, (version, version), (1, 1), (1.0, 0.0), (Outcome.RIGHT, Outcome.WRONG))
        return meta, self.payload(ordinal)


class Consumer:
    """One learner rank that only fetches. Every way of taking returns the sum of the ordinals that came."""

    def take(self, refs: Sequence[Any]) -> int:
        """A batch of payloads."""
        return sum(int(payload[:8].view(np.int64)[0]) for payload in ray.get(list(refs)))

    def take_puts(self, refs: Sequence[Any]) -> int:
        """A batch of references to references."""
        return self.take(ray.get(list(refs)))

    def learn(self, queue: Any, steps: int) -> int:
        """Claims, fetches, acks and commits every step, as rank 0 of 1."""
        total = 0
        attempt, step = ray.get(queue.begin.remote())
        for turn in range(steps):
            work = ray.get(queue.claim.remote(turn, step + 1, 0, 1, attempt))
            assert isinstance(work, Work)
            total += self.take(work.refs)
            step = work.step
            ray.get(queue.ack.remote(StepResult(step, {}), "", attempt))
            ray.get(queue.commit.remote(step, attempt))
        return total
