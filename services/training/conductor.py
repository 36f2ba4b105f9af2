"""The conductor: moves prompts from pool to pool, and publications into the run directory. One asyncio loop on the driver.

    admit ──► generate ──► verify ──► score ──► queue.put          one task per prompt (`_travel`)
      ▲ ▲                                          │
      │ └── the next prompt ◄── if it is dropped ──┤               one task per place, or per step of places (`_fill`)
      └── free places ◄── record, log ◄── queue.next_published     one task for the run (`_follow`)

It chains `.remote()` calls, so Ray moves the bytes from pool to pool; the driver awaits metadata only. It owns the objects, keeps
`{ordinal: ref}` and lets go when the step is published.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import ray

from actors.errors import NothingToLearn, TrainingDiverged
from actors.prompts.stream import PromptStream
from actors.reference.scorer import Scored
from actors.replay.ledger import State
from actors.replay.queue import Published
from actors.types import GRADED, GroupMeta, Prompt
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
        self._ordinals: Iterator[int] = iter(())  # what is to be admitted next
        self._alike: list[GroupMeta] = []  # groups dropped in a row because all their responses earned the same
        self._failure: NothingToLearn | None = None
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
        """Drive the run to its end. Raises what any pool raised, or that there is nothing to learn."""
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
            raise (self._failure or failures.exceptions[0]) from None  # once there is nothing to learn, the queue closes under the rest
        await asyncio.gather(*self._recording)
        if self._failure:
            raise self._failure

    # --- prompts on their way -------------------------------------------------------------------------------------------------

    async def _feed(self) -> None:
        """Fill the run's places as they come free: those of a whole step together where the run is synchronous, else one by one.

        Lost work goes first, then new prompts.
        """
        unfinished, first = await self._queue.resume_point.remote()
        self._ordinals = itertools.chain(unfinished, itertools.count(first))
        run = self._recipe.run
        at_once = run.prompts_per_step if self._synchronous else 1
        for _ in range((run.steps - self._start) * run.prompts_per_step // at_once):
            await self._admission.admit(at_once)
            self._tasks.create_task(self._fill(at_once))

    async def _fill(self, places: int) -> None:
        """Get a group for each place: admit as many prompts together, wait for all, and again for as many as were dropped."""
        while places and not self._failure:
            ordinals = list(itertools.islice(self._ordinals, places))
            await self._queue.admit.remote(ordinals)
            sending = self._send_together if self._synchronous else self._send
            kept = await asyncio.gather(*await sending([self._stream.nth(ordinal) for ordinal in ordinals]))
            places = kept.count(False)

    async def _send(self, prompts: Sequence[Prompt]) -> list[asyncio.Task[bool]]:
        return [self._tasks.create_task(self._travel(prompt)) for prompt in prompts]

    async def _send_together(self, prompts: Sequence[Prompt]) -> list[asyncio.Task[bool]]:
        """Let the engines start on these prompts at the same moment: they then batch them alike in every run."""
        engines = self._pools.generation.actors
        await asyncio.gather(*(engine.hold.remote() for engine in engines))
        travels = await self._send(prompts)
        shares = [len(prompts[index :: len(engines)]) for index in range(len(engines))]
        responses = self._recipe.generation.group_size
        await asyncio.gather(*(engine.release.remote(share * responses) for engine, share in zip(engines, shares, strict=True)))
        return travels

    async def _travel(self, prompt: Prompt) -> bool:
        """Take one prompt through the pools and into the queue. False if it was dropped: another one takes its place."""
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
                scoring: Scored = await scored
            meta, seconds["scored"] = replace(meta, kl=scoring.kl), scoring.seconds
            stages.append(State.SCORED)
        self._refs[prompt.ordinal] = group  # before the queue has it: its step may be published before `put` returns
        kept: bool = await self._queue.put.remote(meta, [group], stages, seconds)
        if not kept:
            del self._refs[prompt.ordinal]
        await self._give_up_after(meta, kept)
        return kept

    async def _give_up_after(self, meta: GroupMeta, kept: bool) -> None:
        """End the run, in good order, once so many groups were dropped in a row that there is nothing to learn."""
        if kept:
            self._alike.clear()
            return
        self._alike.append(meta)
        if len(self._alike) >= self._recipe.replay.max_filtered and not self._failure:
            self._failure = _nothing_to_learn(self._step, self._alike)
            await self._queue.stop.remote(str(self._failure))

    # --- publications ---------------------------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        """Take note of every published step, until the last or until the queue closes."""
        began, self._began = time.time(), time.monotonic()
        while self._step < self._recipe.run.steps:
            published = await self._next_published()
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

    async def _next_published(self) -> Published | None:
        try:
            published: Published | None = await self._queue.next_published.remote(self._step)
        except TrainingDiverged as error:  # as Ray wraps it, with the queue's stack in its text
            raise getattr(error, "cause", error) from None
        return published

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
        for done in [task for task in self._recording if task.done()]:
            self._recording.discard(done)
            done.result()  # a rollout that could not be written ends the run
        refs = [self._refs.pop(ordinal) for ordinal in published.frozen.ordinals]
        if not _recorded(published.step, self._recipe.run.record_share):
            return
        task = asyncio.create_task(_finish(self._record.remote(self._run.path / "rollouts", published.frozen, *refs)))
        self._recording.add(task)


def _nothing_to_learn(step: int, alike: Sequence[GroupMeta]) -> NothingToLearn:
    outcomes = [outcome for meta in alike for outcome in meta.outcomes]
    graded = [score for meta in alike for score, outcome in zip(meta.scores, meta.outcomes, strict=True) if outcome in GRADED]
    return NothingToLearn(
        f"nothing to learn after step {step}: {len(alike)} groups in a row (replay.max_filtered) whose graded responses all earned the "
        f"same reward (mean {sum(graded) / max(1, len(graded)):.2f}; {len(outcomes) - len(graded)} of {len(outcomes)} responses not graded)"
    )


async def _finish(call: Any) -> None:
    await call


def _recorded(step: int, share: float) -> bool:
    """Whether a step's rollouts are written: evenly spread, the given share of all steps."""
    return int(step * share) > int((step - 1) * share)
