"""The learner group: a Ray Train TorchTrainer that runs `actors.learner.loop` on every rank, in a thread of the driver."""

from __future__ import annotations

import asyncio
import os
import threading
from functools import partial
from typing import Any

from ray.exceptions import RayActorError

from actors.errors import LearnerError
from actors.learner.agenda import Agenda
from actors.learner.loop import LoopSpec, learn
from services.config import Recipe
from services.policy.ranking import worth_keeping
from services.training.rundir import CHECKPOINTS, RunDirectory


def loop_spec(recipe: Recipe, queue: Any, run: RunDirectory, model: str, *, transport: str) -> LoopSpec:
    """What every rank is given."""
    return LoopSpec(
        queue=queue,
        config=recipe.learner,
        weights=recipe.weights,
        transport=transport,
        workers=recipe.generation.tensor_parallel,
        model=model,
        dtype=recipe.policy.dtype,
        temperature=recipe.generation.temperature,
        steps=recipe.run.steps,
        seed=recipe.run.seed,
        run=recipe.run.name,
        checkpoints=run.checkpoints,
        policies=run.policies,
        mirror=run.mirror,
        export_every=recipe.run.export_every,
        keep_policies=recipe.run.keep_policies,
        protected=partial(worth_keeping, run.path, run.policies_url, by=recipe.serve.best_by),
    )


async def run_group(recipe: Recipe, agenda: Agenda, storage: str, *, gpu: bool) -> None:
    """Train until the agenda is done; the group restarts as a whole after a failure. Raises the last failure.

    storage: path or URL where Ray Train may keep what it needs itself.
    """
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()

    def fit() -> None:
        try:
            _fit(recipe, agenda, storage, gpu)
            loop.call_soon_threadsafe(ended.set_result, None)
        except Exception as error:
            loop.call_soon_threadsafe(ended.set_exception, error)

    # A thread of our own, and a daemon: one that never comes back must not hold up the end of the process.
    threading.Thread(target=fit, name="learner-group", daemon=True).start()
    await ended


def _fit(recipe: Recipe, agenda: Agenda, storage: str, gpu: bool) -> None:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    os.environ.setdefault("RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S", str(recipe.health.answer_s))  # how Ray Train's controller is told
    learner = recipe.learner
    on_gpu = gpu and learner.gpus > 0
    resources = {"CPU": learner.cpus} | ({"GPU": learner.gpus} if on_gpu else {}) | learner.resources
    trainer = TorchTrainer(
        learn,
        train_loop_config={"agenda": agenda},
        torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if on_gpu else "gloo"),  # offloaded gradients meet on the CPU
        scaling_config=ScalingConfig(
            num_workers=learner.ranks,
            use_gpu=on_gpu,
            resources_per_worker=resources,
            placement_strategy="PACK",  # ranks talk at every update: on one node, or as few as have room
        ),
        run_config=RunConfig(
            name=CHECKPOINTS,
            storage_path=storage,
            failure_config=FailureConfig(max_failures=learner.max_restarts),
        ),
    )
    try:
        trainer.fit()
    except (TrainingFailedError, RayActorError) as error:
        raise LearnerError(f"the learner group failed: {error}") from error
