"""A run's needs, pool by pool: memory of each GPU and each process, host memory in all, disk. From a recipe and a shape alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from services.config import Recipe
from services.plan import inference, processes
from services.plan import learner as learning
from services.plan.disk import Disk, disk
from services.plan.parts import Parts, Peak
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
class Pool:
    """Processes of one kind."""

    name: str
    members: int
    gpus: float  # of one member; 0 on a CPU
    host: Parts  # of one member's processes
    device: Peak | None = None  # on one of its GPUs
    limit: float = 0.0  # bytes it may take there
    once: Parts = field(default_factory=dict)  # host memory of one member alone, beside `host`
    room: inference.Engine | None = None  # for an engine: keys and values

    @property
    def all_host(self) -> float:
        """Bytes of host memory of the whole pool."""
        return self.members * sum(self.host.values()) + sum(self.once.values())

    @property
    def all_gpus(self) -> float:
        """GPUs of the whole pool."""
        return self.members * self.gpus

    @property
    def fits(self) -> bool:
        """Whether each member's part fits its GPU, and an engine's has room for one response at least. Host memory is not judged."""
        if self.room is not None and self.room.responses < 1:
            return False
        return self.device is None or self.device.size <= self.limit


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a recipe needs on a machine."""

    shape: Shape
    machine: Machine
    pools: tuple[Pool, ...]
    object_store: float  # bytes that groups under way can take
    disk: Disk

    @property
    def gpus(self) -> float:
        """GPUs of all pools."""
        return sum(pool.all_gpus for pool in self.pools)

    @property
    def host(self) -> float:
        """Bytes of host memory of all pools, libraries once a node, groups under way."""
        return sum(pool.all_host for pool in self.pools) + self.machine.nodes * processes.LIBRARIES + self.object_store

    @property
    def fits(self) -> bool:
        """Whether every pool fits, and there are GPUs enough."""
        return all(pool.fits for pool in self.pools) and self.gpus <= self.machine.gpus

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
    engine = inference.generation_engine(recipe, shape, machine.gpu_bytes if machine.gpus else None)
    host = {"process": float(processes.ENGINE_ACTOR)}
    if not machine.gpus:
        host |= {"engine's process": processes.ENGINE_CORE, **engine.memory.parts}
        yield Pool("engines", config.engines, 0, host, room=engine)
        return
    workers = processes.ENGINE_CORE + config.tensor_parallel * (processes.ENGINE_CORE + processes.CUDA_PROCESS)
    host |= {"engine's processes": workers}
    yield Pool("engines", config.engines, config.tensor_parallel, host, engine.memory, machine.gpu_bytes, room=engine)


def _learner(recipe: Recipe, shape: Shape, machine: Machine) -> Iterator[Pool]:
    config, gpu = recipe.learner, machine.gpus > 0 and recipe.learner.gpus > 0
    rank = learning.rank(recipe, shape, gpu=gpu)
    host = {"process": float(processes.RANK), **rank.host}
    if not gpu:
        yield Pool("learner", config.ranks, 0, host | dict(rank.device.parts), once=rank.once)
    else:
        host |= {"CUDA": processes.CUDA_PROCESS}
        device = Peak(rank.device.when, {**rank.device.parts, "context and communication": inference.CONTEXT})
        yield Pool("learner", config.ranks, config.gpus, host, device, _limit(machine, config.gpus), once=rank.once)
    yield Pool("learner's control", 1, 0, {"processes": processes.TRAIN_CONTROL})


def _reference(recipe: Recipe, shape: Shape, machine: Machine) -> Iterator[Pool]:
    config, gpu = recipe.reference, machine.gpus > 0 and recipe.reference.gpus > 0
    if not config.enabled:
        return
    memory = inference.scorer(recipe, shape, gpu=gpu)
    host: dict[str, float] = {"process": processes.SCORER}
    if gpu:
        host |= {"CUDA": processes.CUDA_PROCESS, "weights, as they are read": memory.parts["weights"]}
        yield Pool("reference", config.actors, config.gpus, host, memory, _limit(machine, config.gpus))
    else:
        yield Pool("reference", config.actors, 0, host | dict(memory.parts))


def _endpoint(recipe: Recipe, shape: Shape, machine: Machine) -> Iterator[Pool]:
    config, gpu = recipe.serve, machine.gpus > 0 and recipe.serve.gpus > 0
    if not config.during_training:
        return
    engine = inference.endpoint_engine(recipe, shape, machine.gpu_bytes if gpu else None)
    host: dict[str, float] = {"process": processes.REPLICA}
    if gpu:
        host |= {"engine's processes": processes.ENGINE_CORE + config.gpus * (processes.ENGINE_CORE + processes.CUDA_PROCESS)}
        yield Pool("endpoint", config.replicas, config.gpus, host, engine.memory, machine.gpu_bytes, room=engine)
    else:
        host |= {"engine's process": processes.ENGINE_CORE, **engine.memory.parts}
        yield Pool("endpoint", config.replicas, 0, host, room=engine)


def _reward(recipe: Recipe, _: Shape, __: Machine) -> Iterator[Pool]:
    children = recipe.reward.workers * processes.verifier_child(recipe)
    yield Pool("reward", recipe.reward.actors, 0, {"process": processes.REWARD_ACTOR, "verifiers' children": children})


def _driver(recipe: Recipe, _: Shape, __: Machine) -> Iterator[Pool]:
    yield Pool("driver", 1, 0, {"process": processes.DRIVER, "queue and recorder": processes.RECORDS})


def _ray(_: Recipe, __: Shape, machine: Machine) -> Iterator[Pool]:
    yield Pool("Ray", machine.nodes, 0, {"processes": processes.RAY})


def _limit(machine: Machine, gpus: float) -> float:
    """Bytes that a member may take of one of its GPUs; of a part of a GPU, as large a part of its memory."""
    return (1 - HEADROOM) * machine.gpu_bytes * min(1.0, gpus)
