"""The conductor: moves prompts from pool to pool, and publications into the run directory. One asyncio loop on the driver.

    admit ──► generate ──► verify ──► score ──► queue.put          one task per prompt (`_travel`)
      ▲ ▲                                          │
      │ └── the next prompt ◄── if it is dropped ──┤               one task per place, or per step of places (`_fill`)
      └── free places ◄── record, log ◄── queue.next_published     one task for the run (`_follow`)

It chains `.remote()` calls, so Ray moves the bytes from pool to pool; the driver awaits metadata only. It owns the objects (`Keeper`)
and lets go when a checkpoint covers their step. Beside that it watches over the pools, and mends what breaks.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import ray

from actors.errors import NothingToLearn, PoisonedPrompt, QueueClosed
from actors.prompts.stream import PromptStream
from actors.reference.scorer import Scored
from actors.replay.freeze import FrozenStep
from actors.replay.ledger import State
from actors.replay.messages import Arrival, Belongings, Published
from actors.types import GRADED, GroupMeta, Prompt
from services.config import Recipe
from services.telemetry.console import Console
from services.telemetry.sinks import Sinks
from services.training.admission import Admission
from services.training.engines import Engines
from services.training.evaluation import Evaluation, evaluate
from services.training.failures import cause
from services.training.gathering import Gathering
from services.training.keeper import Keeper
from services.training.pool import Member
from services.training.pools import Pools
from services.training.rundir import RunDirectory
from services.training.stages import Call, Stages, generation
from services.training.untold import untold_steps

WATCH_S = 1.0
FULL = 0.8
"""Share of the object store from which on nothing is admitted; Ray begins to spill to disk there."""


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
        keeper: Keeper,
        run: RunDirectory,
        console: Console,
        sinks: Sinks,
        *,
        step: int,
    ) -> None:
        self._recipe, self._stream, self._pools, self._queue, self._keeper = recipe, stream, pools, queue, keeper
        self._run, self._console, self._sinks = run, console, sinks
        self._start = self._step = step
        self._places = (recipe.run.steps - step) * recipe.run.prompts_per_step - len(keeper)  # still to be given to prompts
        self._admission = Admission(recipe.outstanding, least=_least(recipe), taken=len(keeper))
        self._admit = Gathering(self._admit_all)
        self._put: Gathering[Arrival, bool] = Gathering(lambda arrivals: queue.put.remote(arrivals))
        self._engines = Engines(pools.generation, queue)
        self._stages = Stages(recipe.health.deaths)
        self._ordinals: Iterator[int] = iter(())  # what is to be admitted next
        self._travels: dict[int, asyncio.Task[bool]] = {}  # by ordinal
        self._published: asyncio.Queue[Published | None] = asyncio.Queue()
        self._alike: list[GroupMeta] = []  # groups dropped in a row because all their responses earned the same
        self._failure: NothingToLearn | None = None
        self._held_out = stream.held_out()
        self._recording: set[asyncio.Task[None]] = set()
        self._warned = False
        self._by_turns = recipe.replay.by_turns
        self._began = time.monotonic()

    @property
    def step(self) -> int:
        """The newest published step."""
        return self._step

    def belongings(self) -> Belongings:
        """What the queue must be given wherever it begins anew."""
        return self._keeper.belongings(self._engines.handles, self._engines.epoch)

    async def run(self) -> None:
        """Drive the run to its end. Raises what any pool raised, or that there is nothing to learn."""
        try:
            async with asyncio.TaskGroup() as self._tasks:
                for side in (self._pools.watch(), self._engines.follow(), self._heed(), self._tell(), self._take()):
                    self._tasks.create_task(side)
                await self._engines.begin()
                self._console.event("policy published to the engines")
                self._sinks.observe({"step/began": time.time()})
                await self._catch_up()
                self._tasks.create_task(self._feed())
                self._tasks.create_task(self._watch())
                await self._follow()
                await asyncio.gather(*self._recording)
                raise _Finished
        except* _Finished:
            pass
        except* Exception as failures:
            raise (self._failure or cause(failures)) from None  # once there is nothing to learn, all else fails too
        finally:
            self._engines.leave()
        if self._failure:
            raise self._failure

    async def _catch_up(self) -> None:
        """Evaluate the present version if that is due and not done, and tell of steps that an earlier driver was cut before telling."""
        due = self._held_out and self._evaluation_due() and self._step not in self._run.evaluated
        found = (await self._evaluate()).metrics() if due else {}
        for step, metrics in untold_steps(self._run, self._step):
            self._sinks.log(step, metrics | (found if step == self._step else {}))

    # --- prompts on their way -------------------------------------------------------------------------------------------------

    async def _feed(self) -> None:
        """Fill the run's places as they come free: those of a whole step together where generation and learning take turns, one step
        after the other, else one by one.

        Lost work goes first, then new prompts.
        """
        unfinished, first = await self._queue.resume_point.remote()
        self._ordinals = itertools.chain(unfinished, itertools.count(first))
        at_once = self._recipe.run.prompts_per_step if self._by_turns else 1
        while self._places:
            places = self._places % at_once or at_once
            await self._admission.admit(places)
            self._places -= places
            filling = self._tasks.create_task(self._fill(places))
            if self._by_turns:
                await filling

    async def _fill(self, places: int) -> None:
        """Get a group for each place: admit as many prompts together, wait for all, and again for as many as were dropped."""
        while places and not self._failure:
            ordinals = list(itertools.islice(self._ordinals, places))
            await self._admit(ordinals)
            sending = self._send_together if self._by_turns else self._send
            travels = await sending([self._stream.nth(ordinal) for ordinal in ordinals])
            places = await _dropped(travels)

    async def _send_again(self, ordinal: int) -> None:
        """Get a group in place of one that was lost: of the same prompt, or of others should that be dropped now."""
        await self._fill(await _dropped([self._set_out(self._stream.nth(ordinal))]))

    async def _admit_all(self, lots: Sequence[Sequence[int]]) -> Sequence[None]:
        await self._queue.admit.remote([ordinal for lot in lots for ordinal in lot])
        return [None] * len(lots)

    async def _send(self, prompts: Sequence[Prompt]) -> list[asyncio.Task[bool]]:
        return [self._set_out(prompt) for prompt in prompts]

    async def _send_together(self, prompts: Sequence[Prompt]) -> list[asyncio.Task[bool]]:
        """Let the engines start on these prompts at the same moment: they then batch them alike in every run."""
        engines = self._pools.generation.living or list(self._pools.generation.members)
        shares = [prompts[index :: len(engines)] for index in range(len(engines))]
        await asyncio.gather(*(_unless_dead(engine.handle.hold.remote()) for engine in engines))
        travels = [self._set_out(prompt, on=engine) for engine, share in zip(engines, shares, strict=True) for prompt in share]
        responses = self._recipe.generation.group_size
        letting_go = (engine.handle.release.remote(len(share) * responses) for engine, share in zip(engines, shares, strict=True))
        await asyncio.gather(*map(_unless_dead, letting_go))
        return travels

    def _set_out(self, prompt: Prompt, *, on: Member | None = None) -> asyncio.Task[bool]:
        travel = self._tasks.create_task(self._travel(prompt, on))
        self._travels[prompt.ordinal] = travel
        travel.add_done_callback(lambda _: self._travels.pop(prompt.ordinal, None))
        return travel

    async def _travel(self, prompt: Prompt, on: Member | None) -> bool:
        """Take one prompt through the pools and into the queue. False if it was dropped: another one takes its place."""
        while True:
            try:
                return await self._pass_through(prompt, on)
            except PoisonedPrompt as error:
                self._console.event(f"prompt {prompt.ordinal} is left out: {error}")
                await self._queue.drop.remote(prompt.ordinal, "poisoned")
                return False
            except ray.exceptions.ObjectLostError:  # with the node that held it: from the start
                await self._admit([prompt.ordinal])

    async def _pass_through(self, prompt: Prompt, on: Member | None) -> bool:
        pools, run = self._pools, self._stages.run
        stages, seconds = [State.GENERATED, State.VERIFIED], {}
        generated, group = await run(prompt, pools.generation, generation(prompt, self._recipe.run.seed), on=on)
        seconds["generated"] = generated.seconds
        meta: GroupMeta
        meta, group = await run(prompt, pools.reward, _with(group, lambda verifier: verifier.verify))
        seconds["verified"] = meta.seconds
        if pools.reference.members:
            scoring: Scored
            scoring, group = await run(prompt, pools.reference, _with(group, lambda scorer: scorer.score))
            meta, seconds["scored"] = replace(meta, kl=scoring.kl), scoring.seconds
            stages.append(State.SCORED)
        self._keeper.keep(meta, group)  # before the queue has it: its step may be published before `put` returns
        kept = await self._put(Arrival((meta, [group]), stages, seconds))
        if not kept:
            self._keeper.drop(prompt.ordinal)
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

    # --- what happens without the conductor's doing -----------------------------------------------------------------------------

    async def _heed(self) -> None:
        """Prompts that were given up while under way, and groups that were lost after they had come through."""
        seen = 0
        while recalls := await self._queue.next_recalls.remote(seen):
            seen += len(recalls)
            for recall in recalls:
                if recall.reason == "stale" and (travel := self._travels.get(recall.ordinal)):
                    travel.cancel()
                elif recall.reason == "lost":
                    self._keeper.drop(recall.ordinal)
                    self._tasks.create_task(self._send_again(recall.ordinal))

    async def _tell(self) -> None:
        """Show the queue's notes."""
        seen = 0
        while notes := await self._queue.next_notes.remote(seen):
            seen += len(notes)
            for note in notes:
                self._console.event(note)

    # --- publications ---------------------------------------------------------------------------------------------------------

    async def _take(self) -> None:
        """Fetch every publication and have it recorded at once: checkpoints wait for that, and must not wait for an evaluation."""
        step = self._start
        while step < self._recipe.run.steps:
            published: Published | None = await self._queue.next_published.remote(step)
            if published is None:
                break
            step = published.step
            self._sinks.observe({"step/began": published.time})
            self._keep(published)
            self._published.put_nowait(published)
        self._published.put_nowait(None)

    async def _follow(self) -> None:
        """Log and show every published step, and evaluate where that is due, until the last or until the queue closes."""
        began, self._began = time.time(), time.monotonic()
        while (published := await self._published.get()) is not None:
            self._step = published.step
            least = published.result.metrics.get("learner/seconds", 1e-3)  # recorded steps are trained before anything else is up
            metrics = {**published.result.metrics, **self._rates(published, max(published.time - began, least))}
            began = published.time
            if self._held_out and self._evaluation_due():
                metrics |= (await self._evaluate()).metrics()
                began = time.time() if self._by_turns else began  # a run by turns stood still meanwhile
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
        """Show the present state of queue and engines between steps."""
        groups, engines = 1.0, self._pools.generation
        while True:
            metrics: dict[str, float] = await self._queue.metrics.remote()
            metrics["queue/store_used"] = store_used()
            await self._admission.press(metrics["queue/store_used"] > FULL)
            self._console.observe(metrics)
            self._sinks.observe(metrics | {"generation/down": float(len(engines.members) - len(engines.living))})
            if metrics["learner/attempts"] > groups:
                groups = metrics["learner/attempts"]
                self._console.event(f"the learner group was restarted after a failure (number {groups:.0f}); Ray's logs say why")
            await asyncio.sleep(WATCH_S)

    async def _put_down(self, frozen: FrozenStep, refs: Sequence[Any]) -> None:
        """Have a step recorded, if it is to be; no checkpoint covers it before."""
        if _recorded(frozen.step, self._recipe.run.record_share):
            await self._pools.recorder.record.remote(self._run.rollouts, frozen, *refs)
        with contextlib.suppress(QueueClosed):
            await self._queue.recorded.remote(frozen.step)

    def _rates(self, published: Published, seconds: float) -> dict[str, float]:
        metas, elapsed = published.frozen.metas, time.monotonic() - self._began
        responses = sum(len(meta.lengths) for meta in metas)
        return {
            "step/seconds": seconds,
            "step/version": float(published.step),
            "step/samples_per_s": responses / seconds,
            "reward/responses": float(responses),
            "generation/tokens_per_s": sum(sum(meta.lengths) for meta in metas) / seconds,
            "prompts/rejected": float(self._stream.rejected.count),
            "run/eta_s": elapsed / (published.step - self._start) * (self._recipe.run.steps - published.step),
        }

    def _evaluation_due(self) -> bool:
        every, steps = self._recipe.evaluation.every, self._recipe.run.steps
        if self._by_turns and self._step + self._recipe.replay.max_staleness >= steps > self._step > 0:
            return False  # what is left to train is sampled: the learner does not wait, and later versions would answer
        return self._step in (0, steps) or bool(every and self._step % every == 0)

    async def _evaluate(self) -> Evaluation:
        self._sinks.observe({"eval/running": 1.0})
        evaluation = await evaluate(self._recipe, self._pools, self._stages, self._held_out, self._step)
        self._sinks.observe({"eval/running": 0.0, "step/began": time.time()})
        self._run.append_evaluation(evaluation.row())
        self._console.observe(evaluation.metrics())
        text = f"held-out accuracy at step {self._step}: {evaluation.sampled:.3f} sampled, {evaluation.greedy:.3f} greedy"
        self._console.event(text)
        return evaluation

    def _keep(self, published: Published) -> None:
        """Write what was trained on, and let go of it."""
        frozen = published.frozen
        refs = self._keeper.refs(frozen.ordinals)
        self._keeper.settle(published.step, frozen.ordinals, committed=published.committed)
        recording = self._tasks.create_task(self._put_down(frozen, refs))  # a rollout that cannot be written ends the run
        self._recording.add(recording)
        recording.add_done_callback(self._recording.discard)


async def _dropped(travels: Sequence[asyncio.Task[bool]]) -> int:
    """How many of these prompts left the run, once all have come to the end of their way."""
    kept = await asyncio.gather(*travels, return_exceptions=True)
    return sum(one is False or isinstance(one, asyncio.CancelledError) for one in kept)


def _with(group: Any, method: Callable[[Any], Any]) -> Call:
    """The call of a stage that takes the group."""
    return lambda handle: method(handle).options(num_returns=2).remote(group)


async def _unless_dead(call: Any) -> None:
    """An engine that dies needs neither to be held nor let go."""
    with contextlib.suppress(ray.exceptions.RayActorError):
        await call


def _nothing_to_learn(step: int, alike: Sequence[GroupMeta]) -> NothingToLearn:
    outcomes = [outcome for meta in alike for outcome in meta.outcomes]
    graded = [score for meta in alike for score, outcome in zip(meta.scores, meta.outcomes, strict=True) if outcome in GRADED]
    return NothingToLearn(
        f"nothing to learn after step {step}: {len(alike)} groups in a row (replay.max_filtered) whose graded responses all earned the "
        f"same reward (mean {sum(graded) / max(1, len(graded)):.2f}; {len(outcomes) - len(graded)} of {len(outcomes)} responses not graded)"
    )


def store_used() -> float:
    """Share of the cluster's object store that is in use."""
    whole = ray.cluster_resources().get("object_store_memory", 0.0)
    return 1 - ray.available_resources().get("object_store_memory", whole) / whole if whole else 0.0


def _least(recipe: Recipe) -> int:
    """Prompts that may be under way however full the store is: so many it takes to train a step."""
    return recipe.outstanding if recipe.replay.exact_staleness else recipe.run.prompts_per_step


def _recorded(step: int, share: float) -> bool:
    """Whether a step's rollouts are written: evenly spread, the given share of all steps."""
    return int(step * share) > int((step - 1) * share)
