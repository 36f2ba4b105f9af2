"""One run by pools that are up or coming up: queue, conductor and learner group brought together, and parted again at its end."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import ray

from actors.errors import QueueClosed
from actors.learner.checkpoint import LEDGER
from actors.learner.checkpoint_store import Stored, stored, uncommit
from actors.learner.loop import LoopSpec
from actors.prompts.stream import PromptStream
from services.config import Recipe, resolved
from services.telemetry.console import Console
from services.telemetry.sinks import Sinks, open_sinks
from services.training import learner_group
from services.training.conductor import Conductor
from services.training.guard import Guard
from services.training.keeper import Keeper, restored
from services.training.live import answer_while_training
from services.training.pools import Pools, replay_queue
from services.training.rundir import RunDirectory
from services.training.untold import untold_steps

T = TypeVar("T")
Begin = Callable[[LoopSpec], asyncio.Task[None]]
"""Gives the learner group a run; the task ends when the group has left it, and raises what the group fails with."""

STOP_POLL_S = 1.0
LEARNER_END_S = 60.0
"""Time the learner group has to leave once the queue is closed."""


@dataclass(frozen=True, slots=True)
class Job:
    """A run whose directory is locked and whose figures have a place to go: ready to be driven."""

    recipe: Recipe
    run: RunDirectory
    stream: PromptStream
    model: str  # directory of the starting policy
    console: Console
    sinks: Sinks
    checkpoint: Stored | None  # that it goes on from
    resuming: bool


@contextlib.contextmanager
def opened(recipe: Recipe, run: RunDirectory, stream: PromptStream, model: str, console: Console) -> Iterator[Job]:
    """Open a run's directory and sinks; the sinks close with the block, the directory is the caller's to check and to close."""
    resuming = run.open()
    checkpoint, damages = newest_whole(run.checkpoints)  # nobody else commits one from here on
    step = checkpoint.step if checkpoint else 0
    for damaged, damage in damages.items():
        console.event(f"the checkpoint of step {damaged} is damaged and passed over: {damage}")
        uncommit(run.checkpoints, damaged)
    if resuming:
        run.rewind(step)
        console.event(f"going on after step {step}")
    with contextlib.closing(open_sinks(recipe.telemetry, run.path, recipe.run.name, resolved(recipe), step=step)) as sinks:
        for place in sinks.where:
            console.event(f"writing {place}")
        bounds = {"run/steps": recipe.run.steps, "staleness/bound": recipe.replay.max_staleness}
        sinks.observe({"step/version": step, **bounds})
        yield Job(recipe, run, stream, model, console, sinks, checkpoint, resuming)


def newest_whole(root: str) -> tuple[Stored | None, dict[int, str]]:
    """(the newest checkpoint whose files are as they were written, what is wrong with each newer one by its step)."""
    damages: dict[int, str] = {}
    for checkpoint in stored(root):
        if (damage := checkpoint.damage()) is None:
            return checkpoint, damages
        damages[checkpoint.step] = damage
    return None, damages


class StopSigns:
    """SIGINT or SIGTERM: once asks for a good end, a second one ends the process at once. Made inside the event loop."""

    def __init__(self) -> None:
        self._asked = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self._ask, number)

    @property
    def seen(self) -> bool:
        """Whether the process was asked to stop."""
        return self._asked.is_set()

    async def wait(self, run: RunDirectory) -> None:
        """Until the process is asked to stop, or the run is (`gmpo stop`)."""
        while not self._asked.is_set() and not run.stop_requested():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._asked.wait(), STOP_POLL_S)

    def _ask(self, number: int) -> None:
        if self._asked.is_set():
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self._asked.set()


async def drive(job: Job, pools: Pools, begin: Begin, signs: StopSigns) -> bool:
    """Train from the job's checkpoint to its last step; whether all steps are done (else it was asked to stop).

    Raises what any pool, the queue or the learner group raised. The pools stay up, fit for another run only after a good end.
    """
    recipe, run, console, began = job.recipe, job.run, job.console, time.monotonic()
    step = job.checkpoint.step if job.checkpoint else 0
    ledger = job.checkpoint.read_json(LEDGER) if job.checkpoint else []
    keeper = restored(job.checkpoint, run.rollouts, run.history) if job.resuming else Keeper()
    queue = replay_queue(recipe, run, ledger, step)
    await queue.begin_with.remote(keeper.belongings())
    conductor = Conductor(recipe, job.stream, pools, queue, keeper, run, console, job.sinks, step=step)
    guard = Guard(queue, conductor.belongings, recipe.health, console.event)
    learning = begin(learner_group.loop_spec(recipe, queue, run, job.model, transport=pools.transport))
    aside = [asyncio.create_task(_pass_on_stop(signs, run, queue, console)), asyncio.create_task(guard.watch())]
    if recipe.serve.during_training:
        aside.append(asyncio.create_task(answer_while_training(recipe, run, console.event)))
    try:
        # The queue closes early only when the learner group has left: in good order, or with an error that `learning` raises.
        with contextlib.suppress(QueueClosed):
            if seconds := max(await _while_learning(learning, pools.start(), queue, completes=False)):
                console.event(f"engines up in {seconds:.1f} s")
            await _while_learning(learning, conductor.run(), queue, completes=True)
        await learning
        if (failure := await queue.failure.remote()) is not None:
            for done, metrics in untold_steps(run, recipe.run.steps):  # the conductor was cut, and there may be no driver after this one
                job.sinks.log(done, metrics)
            raise failure
        console.event(_ending(conductor.step, recipe.run.steps, time.monotonic() - began))
        return conductor.step == recipe.run.steps
    finally:
        with contextlib.suppress(ray.exceptions.RayError):
            await queue.close.remote()
        for task in aside:
            task.cancel()
        await asyncio.gather(*aside, return_exceptions=True)
        await asyncio.wait({learning}, timeout=LEARNER_END_S)
        # Not by ray.kill: Ray would make the calls under way again, and say so on the screen.
        queue.__ray_terminate__.options(max_task_retries=0).remote()


async def _pass_on_stop(signs: StopSigns, run: RunDirectory, queue: Any, console: Console) -> None:
    await signs.wait(run)
    console.event("stopping: the learner writes a checkpoint")
    await queue.stop.remote("asked to stop")


async def _while_learning(learning: asyncio.Task[None], work: Awaitable[T], queue: Any, *, completes: bool) -> T:
    """The result of `work`. If the learner group ends first, in good order, the queue is closed: some work then completes by itself.

    Raises the failure of a learner group that ends otherwise, and QueueClosed for work that does not complete.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task, learning}, return_when=asyncio.FIRST_COMPLETED)
        if learning.done() and not task.done():
            learning.result()
            await queue.close.remote()
            if not completes:
                raise QueueClosed("the learner group has left")
        return await task
    finally:
        task.cancel()


def _ending(step: int, steps: int, seconds: float) -> str:
    if step == steps:
        return f"all {steps} steps are done, {seconds:.0f} s since the start"
    return f"stopped after step {step} of {steps}; the same command goes on from there"
