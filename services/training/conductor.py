"""The conductor: moves prompts from pool to pool, and publications into the run directory. One asyncio loop on the driver.

    admit ──► generate ──► verify ──► score ──► queue.put          one task per prompt (`_travel`)
      ▲                                            │
      └── free places ◄── record, log ◄── queue.next_published     one task for the run (`_follow`)

It chains `.remote()` calls, so Ray moves the bytes from pool to pool; the driver awaits metadata only. It owns the objects, keeps
`{ordinal: ref}` and lets go when the step is published.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ray

from actors.learner.advantages import GroupAdvantages
from actors.prompts.stream import PromptStream
from actors.replay.ledger import State
from actors.replay.queue import Published
from actors.types import GroupMeta, Prompt
from services.config import Recipe
from services.telemetry.console import Console
from services.telemetry.sinks import Sinks
from services.training.admission import Admission
from services.training.evaluation import Evaluation, evaluate
from services.training.pools import Pools
from services.training.recorder import record
from services.training.rundir import RunDirectory

WATCH_S = 1.0


class _Finished(Exception):
    """Ends the task group when there is nothing left to follow."""


class Conductor:
    """Runs the pipeline from `step` to the recipe's last step, or until the queue closes."""

    def __init__(
        self,
        recipe: Recipe,
        stream: PromptStream,
        pools: Pools,
        queue: Any,
        run: RunDirectory,
        console: Console,
        sinks: Sinks,
        *,
        step: int,
    ) -> None:
        self._recipe, self._stream, self._pools, self._queue = recipe, stream, pools, queue
        self._run, self._console, self._sinks = run, console, sinks
        self._start = self._step = step
        self._admission = Admission(recipe.outstanding)
        self._advantages = GroupAdvantages(recipe.learner.advantage)
        self._held_out = stream.held_out()
        self._refs: dict[int, Any] = {}
        self._recording: set[asyncio.Task[None]] = set()
        self._record = ray.remote(record).options(num_cpus=0)
        self._warned = False
        self._synchronous = recipe.replay.max_staleness == 0
        self._began = time.monotonic()

    @property
    def step(self) -> int:
        """The newest published step."""
        return self._step

    async def run(self) -> None:
        """Drive the run to its end. Raises what any pool raised."""
        await self._queue.synced.remote()
        self._console.event("policy published to the engines")
        if self._step == 0 and self._held_out:
            await self._evaluate()
        try:
            async with asyncio.TaskGroup() as self._tasks:
                self._tasks.create_task(self._feed())
                self._tasks.create_task(self._watch())
                await self._follow()
                raise _Finished
        except* _Finished:
            pass
        except* Exception as failures:
            raise failures.exceptions[0] from None
        await asyncio.gather(*self._recording)

    # --- prompts on their way -------------------------------------------------------------------------------------------------

    async def _feed(self) -> None:
        """Admit prompts as places come free: a whole step at a time where the run is synchronous, else one by one."""
        at_once = self._recipe.run.prompts_per_step if self._synchronous else 1
        ordinals = self._ordinals(*await self._queue.resume_point.remote())
        while batch := [ordinal for _, ordinal in zip(range(at_once), ordinals, strict=False)]:
            await self._admission.admit(len(batch))
            await self._queue.admit.remote(batch)
            sending = self._send_together if self._synchronous else self._send
            await sending([self._stream.nth(ordinal) for ordinal in batch])

    def _ordinals(self, unfinished: Sequence[int], first: int) -> Iterator[int]:
        """What is to be admitted: lost work first, then new prompts, as many as the run still needs."""
        wanted = (self._recipe.run.steps - self._step) * self._recipe.run.prompts_per_step
        yield from unfinished[:wanted]
        yield from range(first, first + wanted - len(unfinished))

    async def _send(self, prompts: Sequence[Prompt]) -> None:
        for prompt in prompts:
            self._tasks.create_task(self._travel(prompt))

    async def _send_together(self, prompts: Sequence[Prompt]) -> None:
        """Let the engines start on a step's prompts at the same moment: they then batch them alike in every run."""
        engines = self._pools.generation.actors
        await asyncio.gather(*(engine.hold.remote() for engine in engines))
        await self._send(prompts)
        shares = [len(prompts[index :: len(engines)]) for index in range(len(engines))]
        responses = self._recipe.generation.group_size
        await asyncio.gather(*(engine.release.remote(share * responses) for engine, share in zip(engines, shares, strict=True)))

    async def _travel(self, prompt: Prompt) -> None:
        """Take one prompt through the pools and into the queue."""
        stages, seconds = [State.GENERATED, State.VERIFIED], {}
        async with self._pools.generation.least_loaded() as engine:
            generated, group = engine.generate.options(num_returns=2).remote(prompt)
            seconds["generated"] = (await generated).seconds
        async with self._pools.reward.least_loaded() as verifier:
            verified, group = verifier.verify.options(num_returns=2).remote(group)
            meta: GroupMeta = await verified
            seconds["verified"] = meta.seconds
        if self._pools.reference.actors:
            async with self._pools.reference.least_loaded() as scorer:
                scored, group = scorer.score.options(num_returns=2).remote(group)
                seconds["scored"] = await scored
            stages.append(State.SCORED)
        self._refs[prompt.ordinal] = group
        await self._queue.put.remote(meta, [group], stages, seconds)

    # --- publications ---------------------------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        """Take note of every published step, until the last or until the queue closes."""
        began, self._began = time.time(), time.monotonic()
        while self._step < self._recipe.run.steps:
            published: Published | None = await self._queue.next_published.remote(self._step)
            if published is None:
                return
            self._step = published.step
            self._keep(published)
            metrics = {**published.result.metrics, **self._rates(published, published.time - began)}
            began = published.time
            if self._held_out and self._evaluation_due():
                metrics |= (await self._evaluate()).metrics()
                began = time.time() if self._synchronous else began  # a synchronous run stood still meanwhile
            self._sinks.log(self._step, metrics)
            self._console.step(self._step, metrics)
            self._warn(metrics)
            await self._admission.free(len(published.frozen.metas))

    def _warn(self, metrics: Mapping[str, float]) -> None:
        """Say so, once, when a whole step had nothing to learn from."""
        if self._warned or metrics["reward/zero_advantage_groups"] < self._recipe.run.prompts_per_step:
            return
        self._warned = True
        self._console.event(
            f"step {self._step}: nothing to learn, the responses of each prompt all earned the same reward "
            f"(mean {metrics['reward/mean']:.2f}; {metrics['reward/parse_failures']:.0f} responses without a readable answer)"
        )

    async def _watch(self) -> None:
        """Show the queue's present state between steps."""
        groups = 1.0
        while True:
            metrics: dict[str, float] = await self._queue.metrics.remote()
            self._console.observe(metrics)
            if metrics["learner/attempts"] > groups:
                groups = metrics["learner/attempts"]
                self._console.event(f"the learner group was restarted after a failure (number {groups:.0f}); Ray's logs say why")
            await asyncio.sleep(WATCH_S)

    def _rates(self, published: Published, seconds: float) -> dict[str, float]:
        metas, elapsed = published.frozen.metas, time.monotonic() - self._began
        responses = sum(len(meta.lengths) for meta in metas)
        return {
            "step/seconds": seconds,
            "step/version": float(published.step),
            "step/samples_per_s": responses / seconds,
            "generation/tokens_per_s": sum(sum(meta.lengths) for meta in metas) / seconds,
            "reward/verified_per_s": responses / seconds,
            "prompts/rejected": float(self._stream.rejected.count),
            "run/eta_s": elapsed / (published.step - self._start) * (self._recipe.run.steps - published.step),
        }

    def _evaluation_due(self) -> bool:
        every = self._recipe.evaluation.every
        return self._step == self._recipe.run.steps or bool(every and self._step % every == 0)

    async def _evaluate(self) -> Evaluation:
        evaluation = await evaluate(self._recipe, self._pools, self._held_out, self._step)
        self._run.append_evaluation(evaluation.row())
        self._console.observe(evaluation.metrics())
        text = f"held-out accuracy at step {self._step}: {evaluation.sampled:.3f} sampled, {evaluation.greedy:.3f} greedy"
        self._console.event(text)
        return evaluation

    def _keep(self, published: Published) -> None:
        """Write what was trained on, and let go of it."""
        metas = published.frozen.metas
        for done in [task for task in self._recording if task.done()]:
            self._recording.discard(done)
            done.result()  # a rollout that could not be written ends the run
        refs = [self._refs.pop(meta.ordinal) for meta in metas]
        if not _recorded(published.step, self._recipe.run.record_share):
            return
        values = [self._advantages(meta).tolist() for meta in metas]
        task = asyncio.create_task(_finish(self._record.remote(self._run.path / "rollouts", published.step, values, *refs)))
        self._recording.add(task)


async def _finish(call: Any) -> None:
    await call


def _recorded(step: int, share: float) -> bool:
    """Whether a step's rollouts are written: evenly spread, the given share of all steps."""
    return int(step * share) > int((step - 1) * share)
