"""The actor pools of a run: made here, looked after, and closed with nothing left behind."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from actors.generation.engine import Engine
from actors.generation.spec import EngineSpec
from actors.generation.vllm_terms import engine_environment
from actors.learner import advantages
from actors.reference.scorer import ReferenceScorer
from actors.replay.messages import QueueSpec
from actors.replay.queue import ReplayQueue
from actors.reward.pool import Verifier
from services import placement
from services.cluster import PAYLOADS_STAY
from services.config import Recipe
from services.training.growth import Growth
from services.training.pool import Member, Pool
from services.training.recorder import Recorder
from services.training.rundir import RunDirectory

CLOSE_TIMEOUT_S = 20.0
MAX_CONCURRENCY = 100_000
"""Calls in flight on one actor; high, so that no control call ever queues."""


FOREVER: dict[str, Any] = {"max_restarts": -1, "max_task_retries": -1}
"""For actors whose calls may come twice: their process is replaced, and calls under way are made again."""


class Pools:
    """All pools but the learner group, which Ray Train places. They may serve one run after another."""

    def __init__(self, recipe: Recipe, model: str, *, gpu: bool, tasks: Sequence[str]) -> None:
        self._groups: list[PlacementGroup] = []
        self.transport = _transport(recipe, gpu=gpu)
        specs = [engine_spec(recipe, model, index, gpu=gpu, transport=self.transport) for index in range(recipe.generation.engines)]
        self._health = recipe.health
        engines = [self._engine(recipe, spec) for spec in specs]
        pool = partial(Pool, answer_s=recipe.health.answer_s, start_s=recipe.generation.start_timeout_s)
        self.generation = pool(engines, wake=_started, health=lambda engine: engine.health.remote())
        options = {"max_concurrency": MAX_CONCURRENCY, "max_restarts": -1, "runtime_env": {"env_vars": PAYLOADS_STAY}}
        room = placement.options(cpus=recipe.reward.cpus, gpus=0, resources=recipe.reward.resources)
        reward = ray.remote(Verifier).options(**room, **options)
        verifier = partial(reward.remote, recipe.reward, tuple(tasks))
        self.reward = pool([verifier() for _ in range(recipe.reward.actors)], wake=_ready)
        self.recorder: Any = ray.remote(Recorder).options(num_cpus=0, scheduling_strategy=_here(), **FOREVER).remote()
        self._recorders = pool([self.recorder], wake=_nothing)
        scorer = _scorer(recipe, model, options, gpu=gpu)
        self.reference = pool([scorer() for _ in range(recipe.reference.actors if recipe.reference.enabled else 0)], wake=_ready)
        self._growths = []
        if recipe.reward.max_actors is not None:
            self._growths.append(Growth(self.reward, verifier, most=recipe.reward.max_actors, closable=True))
        if recipe.reference.enabled and recipe.reference.max_actors is not None:
            self._growths.append(Growth(self.reference, scorer, most=recipe.reference.max_actors, closable=False))

    def _engine(self, recipe: Recipe, spec: EngineSpec) -> Any:
        group = placement.engine_group(recipe, gpu=spec.gpu)
        self._groups.append(group)
        whole = spec.gpu and recipe.generation.tensor_parallel == 1
        return (
            ray.remote(Engine)
            .options(
                num_cpus=recipe.generation.cpus,
                num_gpus=recipe.generation.gpus if whole else 0,
                max_concurrency=MAX_CONCURRENCY,
                max_restarts=-1,
                scheduling_strategy=PlacementGroupSchedulingStrategy(group, 0, placement_group_capture_child_tasks=True),
                runtime_env={"env_vars": PAYLOADS_STAY | engine_environment(spec)},
            )
            .remote(spec)
        )

    async def start(self) -> list[float]:
        """Wait until every engine, verifier and scorer is up. Returns the engines' start-up seconds, 0 for one that was up already."""
        seconds, *_ = await asyncio.gather(*(pool.start() for pool in self._all))
        return seconds

    async def watch(self) -> None:
        """Replace what dies or hangs, and let pools follow their work, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for pool in self._all:
                tasks.create_task(pool.watch(every_s=self._health.every_s))
            for growth in self._growths:
                tasks.create_task(growth.follow())

    @property
    def _all(self) -> tuple[Pool, Pool, Pool, Pool]:
        return self.generation, self.reward, self.reference, self._recorders

    async def close(self) -> None:
        """End every actor and its children."""
        closable = [member for pool in (self.generation, self.reward) for member in pool.living]
        closing = asyncio.gather(*(member.handle.close.remote() for member in closable), return_exceptions=True)
        await asyncio.wait([closing], timeout=CLOSE_TIMEOUT_S)
        for pool in self._all:
            for member in pool.members:
                ray.kill(member.handle)
        placement.release(self._groups)


async def _started(member: Member) -> float:
    seconds: float = await member.handle.start.remote()
    return seconds


async def _nothing(_: Member) -> None:
    """Who has a process can work."""


async def _ready(member: Member) -> None:
    await member.handle.ready.remote()


def engine_spec(recipe: Recipe, model: str, index: int, *, gpu: bool, transport: str) -> EngineSpec:
    """What engine `index` of the recipe is made of."""
    return EngineSpec(
        index=index,
        model=model,
        dtype=recipe.policy.dtype,
        transport=transport,
        max_model_len=recipe.max_model_len,
        gpu=gpu,
        config=recipe.generation,
    )


def _scorer(recipe: Recipe, model: str, options: Mapping[str, Any], *, gpu: bool) -> Callable[[], Any]:
    """Starts a reference actor."""
    config = recipe.reference
    room = placement.options(cpus=config.cpus, gpus=config.gpus if gpu else 0, resources=config.resources)
    scorer = ray.remote(ReferenceScorer).options(**room, **options)
    kl = recipe.learner.kl
    estimator = kl.estimator if kl.place == "reward" and kl.coefficient > 0 else None
    return partial(scorer.remote, model, recipe.policy.dtype, recipe.generation.temperature, config, estimator)


def _transport(recipe: Recipe, *, gpu: bool) -> str:
    if recipe.weights.transport != "auto":
        return recipe.weights.transport
    whole = min(recipe.learner.gpus, recipe.generation.gpus) >= 1  # NCCL refuses two ranks on one device
    return "nccl" if gpu and whole else "gloo"


def replay_queue(recipe: Recipe, run: RunDirectory, ledger: Sequence[Sequence[Any]], step: int) -> Any:
    """The queue actor, on the driver's node: it writes the ledger into the run directory. Its calls may come twice: see there."""
    spec = QueueSpec(
        session=uuid.uuid4().hex,
        prompts_per_step=recipe.run.prompts_per_step,
        updates_per_step=recipe.learner.updates_per_step,
        max_staleness=recipe.replay.max_staleness,
        exact_staleness=recipe.replay.exact_staleness,
        capacity=recipe.replay.capacity or recipe.outstanding,
        stale_after_s=recipe.replay.stale_after_s,
        steps=recipe.run.steps,
        seed=recipe.run.seed,
        skip_zero_advantage=recipe.learner.skip_zero_advantage,
        dynamic_sampling=recipe.replay.dynamic_sampling,
        advantages=advantages.build(recipe.learner.advantage, recipe.learner.kl),
        history=run.history,
    )
    queue = ray.remote(ReplayQueue).options(num_cpus=0, max_concurrency=MAX_CONCURRENCY, scheduling_strategy=_here(), **FOREVER)
    return queue.remote(spec, ledger, step)


def _here() -> NodeAffinitySchedulingStrategy:
    """On the driver's node, where the run directory is."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
