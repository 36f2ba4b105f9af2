"""The learner group: a Ray Train TorchTrainer that runs `actors.learner.loop` on every rank, in a thread of the driver."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from actors.errors import GmpoError
from actors.learner.loop import LoopSpec, learn
from services.config import Recipe
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
        export_every=recipe.run.export_every,
        keep_policies=recipe.run.keep_policies,
    )


async def run_group(recipe: Recipe, spec: LoopSpec, run: RunDirectory, *, gpu: bool) -> None:
    """Train until the queue says Stop; the group restarts as a whole after a failure. Raises the last failure."""
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    await asyncio.to_thread(_fit, recipe, spec, run, gpu)


def _fit(recipe: Recipe, spec: LoopSpec, run: RunDirectory, gpu: bool) -> None:
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    learner = recipe.learner
    resources = {"CPU": learner.cpus} | ({"GPU": learner.gpus} if gpu else {})
    trainer = TorchTrainer(
        learn,
        train_loop_config={"spec": spec},
        torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
        scaling_config=ScalingConfig(num_workers=learner.ranks, use_gpu=gpu, resources_per_worker=resources),
        run_config=RunConfig(
            name=CHECKPOINTS,
            storage_path=run.storage,
            failure_config=FailureConfig(max_failures=learner.max_restarts),
            checkpoint_config=CheckpointConfig(num_to_keep=learner.keep_checkpoints),
        ),
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        raise GmpoError(f"the learner group failed: {error}") from error
