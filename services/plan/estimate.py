"""A run's needs, pool by pool: memory of each GPU and each process, host memory in all, disk. From a recipe and a shape alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from services.config import Recipe
from services.plan import inference, learner, processes
from services.plan.disk import Disk, disk
from services.plan.parts import Part, Peak
from services.plan.pools import Pool, SharedGpu, shared_gpus
from services.plan.shapes import Shape

HEADROOM = 0.1
"""Share of a GPU that the formulas must leave free, for fragmentation and for what they do not know. Not of a generation engine's: there
gpu_memory_share says it."""


@dataclass(frozen=True, slots=True)
class Machine:
    """The nodes there are, all alike."""

    gpus: int  # in all; 0: everything runs on CPUs
    gpu_bytes: float
    gpus_per_node: int

    @property
    def nodes(self) -> int:
        """As few as hold the GPUs."""
        return max(1, -(-self.gpus // self.gpus_per_node))


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a recipe needs on a machine."""

    shape: Shape
    machine: Machine
    pools: tuple[Pool, ...]
    object_store: float  # bytes that groups under way can take
    disk: Disk

    @property
    def shared(self) -> tuple[SharedGpu, ...]:
        """The GPUs whose parts are lent."""
        return shared_gpus(self.pools)

    @property
    def gpus(self) -> float:
        """GPUs of all pools: those that members have for themselves, and those that they share."""
        return sum(pool.all_gpus for pool in self.pools if not pool.shares) + len(self.shared)

    @property
    def host(self) -> float:
        """Bytes of host memory of all pools, libraries once a node, groups under way."""
        return sum(pool.all_host for pool in self.pools) + self.machine.nodes * processes.LIBRARIES + self.object_store

    @property
    def fits(self) -> bool:
        """Whether every pool fits, those that share a GPU do so together, and there are GPUs enough."""
        together = all(pool.fits for pool in self.pools) and all(gpu.fits for gpu in self.shared)
        return together and self.gpus <= self.machine.gpus

    def pool(self, name: str) -> Pool:
        """The pool of this name."""
        return next(pool for pool in self.pools if pool.name == name)


def estimate(recipe: Recipe, shape: Shape, machine: Machine) -> Estimate:
    """What the recipe needs, as it is written."""
    pools = (_engines, _learner, _reference, _endpoint, _reward, _driver, _ray)
    found = tuple(pool for make in pools for pool in make(recipe, shape, machine))
    return Estimate(shape, machine, found, processes.groups_under_way(recipe), disk(recipe, shape))


def _engines(recipe: Recipe, shape: Shape, machine: Machine) -> Iterator[Pool]:
    config = recipe.generation
    gpus = config.tensor_parallel * config.gpus if machine.gpus else 0
    engine = inference.generation_engine(recipe, shape, machine.gpu_bytes if gpus else None)
    yield _of_engines("engines", config.engines, gpus, engine, machine)


def _endpoint(recipe: Recipe, shape: Shape, machine: Machine) -> Iterator[Pool]:
    config, gpus = recipe.serve, recipe.serve.gpus if machine.gpus else 0
    if config.during_training:
        engine = inference.endpoint_engine(recipe, shape, machine.gpu_bytes if gpus else None)
        yield _of_engines("endpoint", config.replicas, gpus, engine, machine)


def _of_engines(name: str, members: int, gpus: float, engine: inference.Engine, machine: Machine) -> Pool:
    """Engines of so many GPUs, each with an actor and a process of its own, and a process on each GPU; without GPUs all is the host's."""
    host: dict[Part, float] = {Part.PROCESS: processes.ENGINE_ACTOR, Part.ENGINE_PROCESSES: processes.ENGINE_CORE}
    if not gpus:
        return Pool(name, members, 0, host | dict(engine.memory.parts), room=engine)
    host[Part.ENGINE_PROCESSES] += math.ceil(gpus) * (processes.ENGINE_CORE + processes.CUDA_PROCESS)
    return Pool(name, members, gpus, host, engine.memory, machine.gpu_bytes, room=engine)


def _learner(recipe: Recipe, shape: Shape, machine: Machine) -> Iterator[Pool]:
    config, gpu = recipe.learner, machine.gpus > 0 and recipe.learner.gpus > 0
    rank = learner.rank(recipe, shape, gpu=gpu)
    host = {Part.PROCESS: float(processes.RANK), **rank.host}
    if not gpu:
        yield Pool("learner", config.ranks, 0, host | dict(rank.device.parts), once=rank.once)
    else:
        host |= {Part.CUDA: processes.CUDA_PROCESS}
        device = Peak(rank.device.when, {**rank.device.parts, Part.CONTEXT: inference.CONTEXT}, rank.device.tokens)
        start = rank.start + inference.CONTEXT
        yield Pool("learner", config.ranks, config.gpus, host, device, _limit(machine), start, once=rank.once)
    yield Pool("learner's control", 1, 0, {Part.PROCESS: processes.TRAIN_CONTROL})


def _reference(recipe: Recipe, shape: Shape, machine: Machine) -> Iterator[Pool]:
    config, gpu = recipe.reference, machine.gpus > 0 and recipe.reference.gpus > 0
    members = inference.most_scorers(recipe)
    if not members:
        return
    memory = inference.scorer(recipe, shape, gpu=gpu)
    host: dict[Part, float] = {Part.PROCESS: processes.SCORER}
    if gpu:
        host |= {Part.CUDA: processes.CUDA_PROCESS, Part.MODEL_READ: memory.parts[Part.WEIGHTS]}
        yield Pool("reference", members, config.gpus, host, memory, _limit(machine))
    else:
        yield Pool("reference", members, 0, host | dict(memory.parts))


def _reward(recipe: Recipe, _: Shape, __: Machine) -> Iterator[Pool]:
    config = recipe.reward
    children = config.workers * processes.verifier_child(recipe)
    yield Pool("reward", max(config.actors, config.max_actors or 0), 0, {Part.PROCESS: processes.REWARD_ACTOR, Part.VERIFIERS: children})


def _driver(recipe: Recipe, _: Shape, __: Machine) -> Iterator[Pool]:
    yield Pool("driver", 1, 0, {Part.PROCESS: processes.DRIVER, Part.RECORDS: processes.RECORDS})


def _ray(_: Recipe, __: Shape, machine: Machine) -> Iterator[Pool]:
    yield Pool("Ray", machine.nodes, 0, {Part.RAY: processes.RAY})


def _limit(machine: Machine) -> float:
    """Bytes that a process may take of a GPU, its own or shared, unless it is an engine."""
    return (1 - HEADROOM) * machine.gpu_bytes
