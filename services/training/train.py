"""A training run from the recipe to the report: checks, pools, conductor and learner group, and an end that leaves nothing behind.

check -> warm policy -> connect -> pools and learner group come up together -> conductor -> checkpoint -> report
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import ray

from actors.errors import ConfigError, Interrupted, QueueClosed
from actors.learner.checkpoint import LEDGER
from actors.learner.checkpoint_store import Stored, stored, uncommit
from actors.modeling.config import TinyPolicy
from actors.modeling.loading import check_head_size, check_model, load_tokenizer
from actors.prompts import sources
from actors.prompts.stream import PromptStream, open_stream
from actors.reward.config import FunctionPart, RewardConfig, VerifierPart
from actors.reward.pool import Verifier
from actors.reward.verifiers import CODE, known
from actors.weights.shelf import Shelf
from actors.weights.version import committed_steps, version_path
from services import cluster, placement
from services.config import Recipe, resolved
from services.policy import ingress
from services.telemetry.console import Console, open_console, screen
from services.telemetry.report import write_report
from services.telemetry.sinks import Sinks, open_sinks
from services.telemetry.trackers import require_packages
from services.training import learner_group
from services.training.conductor import Conductor
from services.training.guard import Guard
from services.training.keeper import Keeper, restored
from services.training.live import answer_while_training
from services.training.pools import Pools, replay_queue
from services.training.rundir import RunDirectory
from services.training.warmup import warm_policy

T = TypeVar("T")

STOP_POLL_S = 1.0
LEARNER_END_S = 60.0
"""Time the learner group has to leave once the queue is closed."""


def train(recipe: Recipe) -> Path:
    """Run the recipe to its end, or go on with a run of the same recipe. Returns the run directory; UsageError before anything starts."""
    run = RunDirectory(recipe)
    run.check()
    if is_done(recipe, run):
        screen().print(f"all {recipe.run.steps} steps are done: {run.path}", markup=False, highlight=False, soft_wrap=True)
        write_report(run.path)
        return run.path
    check(recipe)
    with contextlib.closing(run), open_console(recipe.telemetry.console, run_name=recipe.run.name, steps=recipe.run.steps) as console:
        model = model_directory(recipe, run, console.event)
        stream = open_stream(recipe.prompts, load_tokenizer(model), seed=recipe.run.seed)
        if stream.rejected.count:
            console.event(f"prompts left out: {stream.rejected.describe()}")
        check_tasks(recipe, stream)
        check_learnable(recipe, model)
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
            if recipe.serve.during_training and cluster.is_own_cluster(recipe.cluster):
                ingress.prepare(recipe.serve)
            known = cluster.knows_gpus(recipe.cluster)
            cluster.connect(recipe.cluster, custom=placement.custom(recipe))
            try:
                if not known:
                    check_device(recipe, gpu=cluster.has_gpu(recipe.cluster))
                done = asyncio.run(_Run(recipe, run, console, sinks, stream, model).drive(checkpoint, resuming=resuming))
            finally:
                ray.shutdown()
        write_report(run.path)
        if not done and run.to_be_resubmitted():
            raise Interrupted(f"{run.path} is to be submitted again: the same command goes on from its checkpoint")
    return run.path


def is_done(recipe: Recipe, run: RunDirectory) -> bool:
    """Whether the last step's version and a whole checkpoint of it are there, and the version wherever it must be."""
    places = [str(run.policies), *([run.mirror] if run.mirror else [])]
    if not all(recipe.run.steps in Shelf(place).steps() for place in places):
        return False
    newest = next(iter(stored(run.checkpoints)), None)
    return newest is not None and newest.step >= recipe.run.steps and newest.damage() is None


def newest_whole(root: str) -> tuple[Stored | None, dict[int, str]]:
    """(the newest checkpoint whose files are as they were written, what is wrong with each newer one by its step)."""
    damages: dict[int, str] = {}
    for checkpoint in stored(root):
        if (damage := checkpoint.damage()) is None:
            return checkpoint, damages
        damages[checkpoint.step] = damage
    return None, damages


def check(recipe: Recipe) -> None:
    """Refuse what can be known to fail before anything starts."""
    sources.check(recipe.prompts)
    require_packages(recipe.telemetry.trackers)
    check_device(recipe, gpu=not cluster.knows_gpus(recipe.cluster) or cluster.has_gpu(recipe.cluster))  # else looked at again, once known
    programs = [part.task for part in recipe.reward.parts if isinstance(part, VerifierPart) and part.task == CODE]
    if programs or any(isinstance(part, FunctionPart) for part in recipe.reward.parts):
        asyncio.run(check_verifier(recipe.reward, programs))


def check_device(recipe: Recipe, *, gpu: bool) -> None:
    """Refuse what the devices that models run on cannot do, or this machine has not got."""
    if not gpu and recipe.generation.tensor_parallel > 1:
        raise ConfigError("generation.tensor_parallel: only GPUs can share an engine's weights, and there are none")
    cluster.check_own(recipe, gpu=gpu)
    policy = recipe.policy
    if isinstance(policy, TinyPolicy):
        check_head_size(policy.hidden_size // policy.heads, gpu=gpu)
    elif Path(policy.path).exists() or policy.revision is None:
        check_length(check_model(policy.path, gpu=gpu), recipe)


def check_length(model: Mapping[str, Any], recipe: Recipe) -> None:
    """Refuse sequences longer than the model was built for."""
    longest = model.get("max_position_embeddings")
    if longest is not None and recipe.max_model_len > longest:
        raise ConfigError(
            f"prompts.max_tokens, generation.max_tokens: together {recipe.max_model_len} tokens, and the model is built for {longest}"
        )


async def check_verifier(config: RewardConfig, tasks: Sequence[str]) -> None:
    """Refuse reward functions that cannot be imported, and programs that could not be shut in: a verifier's child finds out."""
    verifier = Verifier(config.model_copy(update={"workers": 1}), tasks)
    try:
        await verifier.ready()
    finally:
        await verifier.close()


def check_tasks(recipe: Recipe, stream: PromptStream) -> None:
    """Refuse prompts that no verifier can grade."""
    if not recipe.reward.by_task:
        return
    tasks = sorted({prompt.task for prompt in _sample(stream)})
    for task in tasks:
        if not known(task):
            raise ConfigError(f"prompts.task: no verifier is called {task!r}")
    if CODE in tasks:
        asyncio.run(check_verifier(recipe.reward, [CODE]))


def check_learnable(recipe: Recipe, model: str) -> None:
    """Refuse a model that cannot be scored packed, or adapted as asked: found out on its shapes alone."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from actors.learner.lora import attach
    from actors.modeling.scoring import Scorer

    with torch.device("meta"):
        shapes = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model, trust_remote_code=False))
        if recipe.learner.lora is not None:
            attach(shapes, recipe.learner.lora)
        Scorer(shapes)
    check_context(shapes.config, recipe.max_model_len)


def check_context(config: Any, longest: int) -> None:
    """Refuse sequences that the model would not read as a whole, or by other frequencies than shorter ones they are packed with."""
    window = getattr(config, "sliding_window", None)
    if window and longest > window and "sliding_attention" in (getattr(config, "layer_types", None) or ()):
        raise ConfigError(f"generation.max_tokens: sequences of {longest} tokens do not fit the model's sliding window of {window}")
    rope = getattr(config, "rope_parameters", None) or {}
    original = rope.get("original_max_position_embeddings") or config.max_position_embeddings
    if rope.get("rope_type") in {"dynamic", "longrope"} and longest > original:
        raise ConfigError(
            f"generation.max_tokens: beyond {original} tokens the model's {rope['rope_type']} positions depend on the longest of a batch"
        )


def model_directory(recipe: Recipe, run: RunDirectory, tell: Callable[[str], None]) -> str:
    """The directory of the starting policy: taught (or, once the run has begun, its own version 0), found, or fetched from the hub."""
    policy = recipe.policy
    if isinstance(policy, TinyPolicy):
        start = version_path(run.policies, 0)
        return str(start) if run.begun and 0 in committed_steps(run.policies) else str(warm_policy(recipe, tell))
    if policy.revision is None or Path(policy.path).exists():
        return policy.path
    from huggingface_hub import snapshot_download

    tell(f"fetching {policy.path} at {policy.revision}")
    return snapshot_download(
        policy.path, revision=policy.revision, allow_patterns=["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
    )


def _sample(stream: PromptStream) -> list[Any]:
    """Every prompt of a finite source, a few of an endless one."""
    return [stream.nth(ordinal) for ordinal in range(stream.epoch_size or 8)]


class _Run:
    """The part of a run that needs the cluster."""

    def __init__(self, recipe: Recipe, run: RunDirectory, console: Console, sinks: Sinks, stream: PromptStream, model: str) -> None:
        self._recipe, self._run, self._stream, self._model = recipe, run, stream, model
        self._console, self._sinks = console, sinks
        self._gpu = cluster.has_gpu(recipe.cluster)
        self._stop_asked = asyncio.Event()

    async def drive(self, checkpoint: Stored | None, *, resuming: bool) -> bool:
        """Bring everything up, train, take everything down; whether all steps are done."""
        recipe, began = self._recipe, time.monotonic()
        step = checkpoint.step if checkpoint else 0
        ledger = checkpoint.read_json(LEDGER) if checkpoint else []
        await cluster.require(recipe, gpu=self._gpu, tell=self._console.event)
        transport = _transport(recipe, gpu=self._gpu)
        keeper = restored(checkpoint, self._run.rollouts, self._run.history) if resuming else Keeper()
        queue = replay_queue(recipe, self._run, ledger, step)
        await queue.begin_with.remote(keeper.belongings())
        tasks = sorted({prompt.task for prompt in _sample(self._stream)})
        pools = Pools(recipe, self._model, self._run.rollouts, gpu=self._gpu, transport=transport, tasks=tasks)
        spec = learner_group.loop_spec(recipe, queue, self._run, self._model, transport=transport)
        conductor = Conductor(recipe, self._stream, pools, queue, keeper, self._run, self._console, self._sinks, step=step)
        guard = Guard(queue, conductor.belongings, recipe.health, self._console.event)
        learning = asyncio.create_task(learner_group.run_group(recipe, spec, self._run, gpu=self._gpu))
        aside = [asyncio.create_task(self._pass_on_stop(queue)), asyncio.create_task(guard.watch())]
        if recipe.serve.during_training:
            aside.append(asyncio.create_task(answer_while_training(recipe, self._run, self._console.event)))
        try:
            # The queue closes early only when the learner group has ended: in good order, or with an error that `learning` raises.
            with contextlib.suppress(QueueClosed):
                seconds = await _while_learning(learning, pools.start(), queue, completes=False)
                self._console.event(f"engines up in {max(seconds):.1f} s")
                await _while_learning(learning, conductor.run(), queue, completes=True)
            await learning
            if (failure := await queue.failure.remote()) is not None:
                raise failure
            self._console.event(_ending(conductor.step, recipe.run.steps, time.monotonic() - began))
            return conductor.step == recipe.run.steps
        finally:
            with contextlib.suppress(ray.exceptions.RayError):
                await queue.close.remote()
            for task in aside:
                task.cancel()
            await asyncio.gather(*aside, return_exceptions=True)
            await asyncio.wait({learning}, timeout=LEARNER_END_S)
            await pools.close()
            ray.kill(queue)

    async def _pass_on_stop(self, queue: Any) -> None:
        """SIGINT, SIGTERM or `gmpo stop` once: the learner checkpoints and leaves. A second signal ends the process at once."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._ask_to_stop, number)
        while not self._stop_asked.is_set() and not self._run.stop_requested():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop_asked.wait(), STOP_POLL_S)
        self._console.event("stopping: the learner writes a checkpoint")
        await queue.stop.remote("asked to stop")

    def _ask_to_stop(self, number: int) -> None:
        if self._stop_asked.is_set():
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self._stop_asked.set()


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


def _transport(recipe: Recipe, *, gpu: bool) -> str:
    if recipe.weights.transport != "auto":
        return recipe.weights.transport
    whole = min(recipe.learner.gpus, recipe.generation.gpus) >= 1  # NCCL refuses two ranks on one device
    return "nccl" if gpu and whole else "gloo"
