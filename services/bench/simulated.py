"""Engines, verifier and learner that only sleep: what the conductor sees of a run, without the work.

Up to 4 actors hold all simulated engines. A group takes as long as its longest response; an engine works on so many groups at once, and
takes the others in the order in which they came.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from actors.replay.queue import ReplayQueue
from actors.types import GroupMeta, Outcome, Prompt, Resync, StepResult, Stop, Work
from services.bench.lengths import CAP, MEDIAN, SIGMA


@dataclass(frozen=True, slots=True)
class World:
    """How long everything takes: a function of the seed."""

    seed: int
    responses: int  # of a group
    slots: int  # groups that an engine works on at once
    longest_s: float  # of a response at the cap of the lengths
    verify_s: float
    learn_s: float  # of a step

    def generation_s(self, ordinal: int) -> float:
        """Of one group: its longest response. Lengths are lognormal, as those of the learner's benchmark."""
        draws = np.random.default_rng((self.seed, ordinal)).standard_normal(self.responses)
        return float(np.minimum(CAP, MEDIAN * np.exp(SIGMA * draws)).max()) / CAP * self.longest_s

    def makespan_s(self, cohort: Sequence[int], engines: int) -> float:
        """From the moment at which these prompts are there until the last is verified, if idle engines get them in turn."""
        return max(self._engine_s(cohort[engine::engines]) for engine in range(min(engines, len(cohort)))) + self.verify_s

    def _engine_s(self, ordinals: Sequence[int]) -> float:
        """One engine's prompts, in order, each to the slot that is free first."""
        slots = [0.0] * self.slots
        for ordinal in ordinals:
            heapq.heapreplace(slots, slots[0] + self.generation_s(ordinal))
        return max(slots)


class Engines:
    """Some of the simulated engines, in one process."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._slots: dict[int, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(world.slots))
        self._submitted: dict[int, int] = defaultdict(int)
        self._held: set[int] = set()
        self._changed = asyncio.Condition()
        self._version = 0

    async def hold(self, engine: int) -> None:
        """Begin nothing on this engine."""
        self._submitted[engine] = 0
        self._held.add(engine)

    async def release(self, engine: int, responses: int) -> None:
        """Begin, once so many responses have been asked for."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._submitted[engine] >= responses)
            self._held.discard(engine)
            self._changed.notify_all()

    async def generate(self, engine: int, prompt: Prompt) -> tuple[GroupMeta, int]:
        """The group of one prompt: its payload is its ordinal."""
        async with self._changed:
            self._submitted[engine] += self._world.responses
            self._changed.notify_all()
            await self._changed.wait_for(lambda: engine not in self._held)
        async with self._slots[engine]:
            version = self._version
            await asyncio.sleep(self._world.generation_s(prompt.ordinal))
        return GroupMeta(prompt.ordinal, (version, self._version), (1,) * self._world.responses), prompt.ordinal

    async def take(self, version: int) -> None:
        """A new policy version."""
        self._version = version


class Verifier:
    """Calls every other response right."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def verify(self, ordinal: int) -> tuple[GroupMeta, int]:
        """The verdicts on a group."""
        await asyncio.sleep(self._world.verify_s)
        outcomes = tuple((Outcome.RIGHT, Outcome.WRONG)[sample % 2] for sample in range(self._world.responses))
        scores = tuple(float(outcome is Outcome.RIGHT) for outcome in outcomes)
        return GroupMeta(ordinal, (0, 0), (1,) * self._world.responses, scores, outcomes), ordinal
