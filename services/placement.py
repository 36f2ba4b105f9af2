"""Where the pools of a run may go: what each asks of one node, and whether the nodes of a cluster can give it.

An ask is what must find room on a single node: one actor, or one engine with all its workers. Engines are spread over nodes and the
learner's ranks kept close where that is possible; `resources` of a pool ties it to the nodes that offer these.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from actors.generation.config import GenerationConfig
from services.config import Recipe

Resources = Mapping[str, float]
"""Amount by name: CPU, GPU, or a custom one."""

DIGITS = 4
"""Ray counts resources in ten-thousandths."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What must find room on one node."""

    pool: str
    bundles: tuple[Resources, ...]  # one per process that Ray places

    @property
    def total(self) -> dict[str, float]:
        """Of the node."""
        return summed(self.bundles)


def asks(recipe: Recipe, *, gpu: bool) -> list[Ask]:
    """All that the pools ask for, engines first."""
    return [ask if gpu else _without_gpus(ask) for ask in _asks(recipe)]


def _asks(recipe: Recipe) -> Iterator[Ask]:
    generation, learner, reference, reward, serve = recipe.generation, recipe.learner, recipe.reference, recipe.reward, recipe.serve
    yield from [Ask("generation", _engine(generation))] * generation.engines
    yield from [Ask("learner", ({"CPU": learner.cpus, "GPU": learner.gpus} | learner.resources,))] * learner.ranks
    if reference.enabled:
        yield from [Ask("reference", ({"CPU": reference.cpus, "GPU": reference.gpus} | reference.resources,))] * reference.actors
    yield from [Ask("reward", ({"CPU": reward.cpus} | reward.resources,))] * reward.actors
    if serve.during_training:
        yield from [Ask("serve", ({"CPU": serve.cpus, "GPU": serve.gpus},))] * serve.replicas


def _engine(generation: GenerationConfig) -> tuple[Resources, ...]:
    """The bundles of one engine: the first holds the actor, and each a vLLM worker."""
    first = {"CPU": generation.cpus, "GPU": generation.gpus} | generation.resources
    return (first, *[{"GPU": generation.gpus}] * (generation.tensor_parallel - 1))


def _without_gpus(ask: Ask) -> Ask:
    return Ask(ask.pool, tuple({name: amount for name, amount in bundle.items() if name != "GPU"} for bundle in ask.bundles))


def custom(recipe: Recipe) -> dict[str, float]:
    """The custom resources that all pools ask for together."""
    wanted = summed(ask.total for ask in asks(recipe, gpu=False))
    return {name: float(-(-amount // 1)) for name, amount in wanted.items() if name != "CPU"}


def summed(parts: Iterator[Resources] | Sequence[Resources]) -> dict[str, float]:
    """The amounts of all, name by name, but nothing of what nobody asks for."""
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part)
    return {name: round(amount, DIGITS) for name, amount in total.items() if amount}


def unplaced(wanted: Sequence[Ask], nodes: Sequence[Resources]) -> list[Ask]:
    """What finds no room: the greatest asks choose first, and none without GPUs goes to a node with GPUs while another has room."""
    free = [dict(node) for node in nodes]
    left = []
    for ask in sorted(wanted, key=_size, reverse=True):
        rooms = [node for node in free if _fits(ask.total, node)]
        if not rooms:
            left.append(ask)
            continue
        room = min(rooms, key=lambda node: node.get("GPU", 0.0))
        for name, amount in ask.total.items():
            room[name] -= amount
    return left


def _size(ask: Ask) -> tuple[float, int, float]:
    return ask.total.get("GPU", 0.0), len(ask.total), ask.total.get("CPU", 0.0)


def _fits(total: Resources, node: Resources) -> bool:
    return all(round(node.get(name, 0.0) - amount, DIGITS) >= 0 for name, amount in total.items())


def describe(resources: Resources) -> str:
    """In words."""
    return ", ".join(f"{amount:g} {name}" for name, amount in resources.items()) or "nothing"


def describe_all(left: Sequence[Ask]) -> str:
    """What finds no room, in words: how many of each kind."""
    kinds = Counter((ask.pool, describe(ask.total)) for ask in left)
    return "; ".join(f"{count} of {pool}, each {text} on one node" for (pool, text), count in kinds.items())


def engine_group(recipe: Recipe, *, gpu: bool) -> PlacementGroup:
    """Room for one engine, held by the driver for the whole run: all its workers on one node, whose links they need.

    Ray takes the node with the greatest share free, so engines spread over nodes that are alike.
    """
    ask = next(ask for ask in asks(recipe, gpu=gpu) if ask.pool == "generation")
    bundles = [{name: amount for name, amount in bundle.items() if amount} or {"CPU": 0.01} for bundle in ask.bundles]
    group: PlacementGroup = placement_group(bundles, strategy="STRICT_PACK")
    return group


def options(*, cpus: float, gpus: float, resources: Resources) -> dict[str, Any]:
    """Ray's words for what one actor takes of its node."""
    return {"num_cpus": cpus, "num_gpus": gpus, "resources": dict(resources)}


def release(groups: Sequence[PlacementGroup]) -> None:
    """Give placement groups back."""
    for group in groups:
        remove_placement_group(group)
