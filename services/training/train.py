"""A training run from the recipe to the report: checks, pools, conductor and learner group, and an end that leaves nothing behind.

check -> warm policy -> connect -> pools and learner group come up together -> conductor -> checkpoint -> report
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import ray

from actors.errors import Interrupted
from actors.learner.agenda import OneRun
from actors.learner.checkpoint_store import stored
from actors.modeling.config import TinyPolicy
from actors.modeling.loading import load_tokenizer
from actors.prompts.stream import PromptStream, open_stream
from actors.weights.shelf import Shelf
from actors.weights.version import committed_steps, version_path
from services import cluster, placement
from services.config import Recipe
from services.policy import ingress
from services.telemetry.console import open_console, screen
from services.telemetry.report import write_report
from services.training.checks import check, check_device, check_learnable, check_tasks, tasks_of
from services.training.drive import Job, StopSigns, drive, opened
from services.training.learner_group import run_group
from services.training.pools import Pools
from services.training.rundir import RunDirectory
from services.training.warmup import warm_policy


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
        model, stream = prepared(recipe, run, console.event)
        with opened(recipe, run, stream, model, console) as job, connected(recipe):
            done = asyncio.run(_alone(job))
        write_report(run.path)
        if not done and run.to_be_resubmitted():
            raise Interrupted(f"{run.path} is to be submitted again: the same command goes on from its checkpoint")
    return run.path


@contextlib.contextmanager
def connected(recipe: Recipe) -> Iterator[None]:
    """Be on the recipe's cluster while the block lasts. ConfigError where its devices cannot do what the recipe asks."""
    if recipe.serve.during_training and cluster.is_own_cluster(recipe.cluster):
        ingress.prepare(recipe.serve)
    known = cluster.knows_gpus(recipe.cluster)
    cluster.connect(recipe.cluster, custom=placement.custom(recipe))
    try:
        if not known:
            check_device(recipe, gpu=cluster.has_gpu(recipe.cluster))
        yield
    finally:
        ray.shutdown()


async def _alone(job: Job) -> bool:
    """Drive a run by pools and a learner group of its own."""
    recipe, gpu = job.recipe, cluster.has_gpu(job.recipe.cluster)
    await cluster.require(recipe, gpu=gpu, tell=job.console.event)
    pools = Pools(recipe, job.model, gpu=gpu, tasks=tasks_of(job.stream))
    try:
        return await drive(
            job, pools, lambda spec: asyncio.create_task(run_group(recipe, OneRun(spec), job.run.storage, gpu=gpu)), StopSigns()
        )
    finally:
        await pools.close()


def is_done(recipe: Recipe, run: RunDirectory) -> bool:
    """Whether the last step's version and a whole checkpoint of it are there, the version wherever it must be, and all of it is told."""
    if not run.told_the_end:
        return False
    places = [str(run.policies), *([run.mirror] if run.mirror else [])]
    if not all(recipe.run.steps in Shelf(place).steps() for place in places):
        return False
    newest = next(iter(stored(run.checkpoints)), None)
    return newest is not None and newest.step >= recipe.run.steps and newest.damage() is None


def prepared(recipe: Recipe, run: RunDirectory, tell: Callable[[str], None]) -> tuple[str, PromptStream]:
    """(directory of the starting policy, prompts), known to go together; teaching or fetching a policy may take minutes."""
    model = model_directory(recipe, run, tell)
    stream = open_stream(recipe.prompts, load_tokenizer(model), seed=recipe.run.seed)
    if stream.rejected.count:
        tell(f"prompts left out: {stream.rejected.describe()}")
    check_tasks(recipe, stream)
    check_learnable(recipe, model)
    return model, stream


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
