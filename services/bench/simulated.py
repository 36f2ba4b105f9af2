"""Engines, a verifier and a learner that only sleep: what the conductor sees of a run, without the work.

Up to 4 actors hold all simulated engines. A group takes as long as its longest response; an engine works on so many groups at once, and
takes the others in the order in which they came.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

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

    async def generate(self, engine: int, prompt: Prompt, *_sampling: object) -> tuple[GroupMeta, GroupMeta]:
        """The group of one prompt, however it is to be sampled: its payload is no more than its metadata."""
        async with self._changed:
            self._submitted[engine] += self._world.responses
            self._changed.notify_all()
            await self._changed.wait_for(lambda: engine not in self._held)
        async with self._slots[engine]:
            version = self._version
            await asyncio.sleep(self._world.generation_s(prompt.ordinal))
        meta = GroupMeta(prompt.ordinal, (version, self._version), (1,) * self._world.responses)
        return meta, meta

    async def take(self, version: int) -> None:
        """A new policy version."""
        self._version = version


class Verifier:
    """Calls every other response right."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def verify(self, group: GroupMeta) -> tuple[GroupMeta, GroupMeta]:
        """The verdicts on a group."""
        await asyncio.sleep(self._world.verify_s)
        outcomes = tuple((Outcome.RIGHT, Outcome.WRONG)[sample % 2] for sample in range(self._world.responses))
        meta = replace(group, scores=tuple(float(outcome is Outcome.RIGHT) for outcome in outcomes), outcomes=outcomes)
        return meta, meta


class Learner:
    """The only rank of its group; its engines are told of each version, and that is all a publication is."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def learn(self, queue: Any, engines: Sequence[Any]) -> None:
        """Follow the queue until it says Stop."""
        attempt, step = await queue.begin.remote()
        turn = 0
        while not isinstance(assignment := await queue.claim.remote(turn, step + 1, 0, 1, attempt), Stop):
            turn += 1
            if isinstance(assignment, Work):
                await asyncio.gather(*assignment.refs)
                await asyncio.sleep(self._world.learn_s)
                step = assignment.step
            await asyncio.gather(*(actor.take.remote(step) for actor in engines))
            if isinstance(assignment, Resync):
                await queue.confirm.remote(assignment.epoch, step, "", attempt)
            else:
                await queue.ack.remote(StepResult(step, {}), "", attempt)
                await queue.commit.remote(step, attempt)


@dataclass(frozen=True, slots=True)
class Bound:
    """A method of one of the engines that share an actor."""

    method: Any
    engine: int

    def options(self, **options: Any) -> Bound:
        """As of an actor's method."""
        return Bound(self.method.options(**options), self.engine)

    def remote(self, *arguments: Any) -> Any:
        """As of an actor's method."""
        return self.method.remote(self.engine, *arguments)


@dataclass(frozen=True, slots=True)
class EngineHandle:
    """One simulated engine, as the pool and the conductor see it."""

    actor: Any
    engine: int

    @property
    def generate(self) -> Bound:
        """See Engines."""
        return Bound(self.actor.generate, self.engine)

    @property
    def hold(self) -> Bound:
        """See Engines."""
        return Bound(self.actor.hold, self.engine)

    @property
    def release(self) -> Bound:
        """See Engines."""
        return Bound(self.actor.release, self.engine)

    @property
    def __ray_call__(self) -> Any:
        """Of the process that all engines of the actor share."""
        return self.actor.__ray_call__


class Questions:
    """Endless prompts without content."""

    epoch_size = None

    def nth(self, ordinal: int) -> Prompt:
        """The prompt at this ordinal."""
        return Prompt(ordinal, "", np.zeros(1, dtype=np.int32), "", "", f"bench#{ordinal}")


class StepTimes:
    """The conductor's sinks: keeps what each step took."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """A step is published."""
        self.seconds.append(metrics["step/seconds"])

    def observe(self, metrics: Mapping[str, float]) -> None:
        """Nobody looks between steps."""
