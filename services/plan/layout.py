"""Chooses a layout: which GPUs generate, which learn, which score. What the recipe says stays; what it leaves open is chosen.

    an engine    takes the fewest GPUs that share its weights and have room for one whole group of responses
    reference    keeps pace with the learner; none where there are at most two GPUs, no KL term needs it and the recipe has no such section
    learner      keeps its activations or recomputes them, in the recipe's micro-batches or halves of them
    engines      get all other GPUs

GPUs are shared only where the recipe asks for parts of them.
Of all divisions that fit, that one is taken whose slowest pool needs least time, by the rough figures of `pace`; among equals the one with
the largest micro-batches and the fewest ranks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from actors.section import Section
from services.config import Recipe
from services.plan.estimate import Estimate, Machine, estimate
from services.plan.inference import most_scorers
from services.plan.pace import Pace, learning_s, pace, scoring_s, share
from services.plan.shapes import Shape

ROUNDING = 1e-6
"""What sums of parts of GPUs may be off by."""


@dataclass(frozen=True, slots=True)
class Layout:
    """A recipe with every choice made, and what comes of it."""

    asked: Recipe  # as it was given
    recipe: Recipe  # with every choice made
    choices: Mapping[str, Any]  # what was chosen and the recipe does not say: value by the path of the field
    estimate: Estimate
    pace: Pace | None  # None on CPUs

    @property
    def overrides(self) -> list[str]:
        """What was chosen, as the command line takes it; nothing where it does not fit."""
        return [f"{path}={str(value).lower()}" for path, value in self.choices.items()] if self.estimate.fits else []


def choose(recipe: Recipe, shape: Shape, machine: Machine) -> Layout:
    """The best layout that fits; the last one that was tried where none does. On CPUs the recipe as it is."""
    if not machine.gpus:
        return Layout(recipe, recipe, {}, estimate(recipe, shape, machine), None)
    sizes = _open(recipe.learner, "micro_batch_tokens", _halves(recipe))
    tried = [_layout(recipe, changes, shape, machine) for micro in sizes for changes in _divisions(recipe, shape, machine, micro)]
    fitting = [layout for layout in tried if layout.estimate.fits]
    return min(fitting, key=_slowest) if fitting else tried[-1]


def _slowest(layout: Layout) -> float:
    return layout.pace.slowest if layout.pace else math.inf


def _layout(recipe: Recipe, choices: Mapping[str, Any], shape: Shape, machine: Machine) -> Layout:
    chosen = changed(recipe, choices)
    found = estimate(chosen, shape, machine)
    room = found.pool("engines").room
    assert room is not None  # engines always have some figure of it
    new = {path: value for path, value in choices.items() if not _says(recipe, path)}
    return Layout(recipe, chosen, new, found, pace(chosen, shape, room))


def _says(recipe: Recipe, path: str) -> bool:
    name, field = path.split(".")
    return field in getattr(recipe, name).model_fields_set


def changed(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """The recipe with these fields set. Not checked again: what is chosen here contradicts nothing."""
    for path, value in changes.items():
        name, field = path.split(".")
        section = getattr(recipe, name).model_copy(update={field: value})
        recipe = recipe.model_copy(update={name: section})
    return recipe


def _divisions(recipe: Recipe, shape: Shape, machine: Machine, micro: int) -> Iterator[dict[str, Any]]:
    """Every division of the GPUs; the last one has the largest learner."""
    wide = _tensor_parallel(recipe, shape, machine)
    engine = wide * recipe.generation.gpus
    most = 1 if 0 < recipe.learner.gpus < 1 else machine.gpus - 1  # ranks never share a GPU
    for ranks in _open(recipe.learner, "ranks", range(1, max(1, most) + 1)):
        for recomputed in _open(recipe.learner, "activation_checkpointing", (False, True)):
            learner = {"learner.ranks": ranks, "learner.activation_checkpointing": recomputed, "learner.micro_batch_tokens": micro}
            reference = _scorers(changed(recipe, learner), shape, machine)
            left = machine.gpus - _beside_engines(changed(recipe, learner | reference)) + ROUNDING
            if left < engine and ranks > 1 and "ranks" not in recipe.learner.model_fields_set:
                return
            engines = next(_open(recipe.generation, "engines", [max(1, int(left / engine))]))
            yield {"generation.engines": engines, "generation.tensor_parallel": wide, **learner, **reference}


def _beside_engines(recipe: Recipe) -> float:
    """GPUs of all pools but the generation engines."""
    answering = recipe.serve.replicas * recipe.serve.gpus if recipe.serve.during_training else 0
    return answering + recipe.learner.ranks * recipe.learner.gpus + most_scorers(recipe) * recipe.reference.gpus


def _scorers(recipe: Recipe, shape: Shape, machine: Machine) -> dict[str, Any]:
    """Reference scorers that keep pace with this learner, or as many as the recipe says; none where GPUs are few and nobody asks."""
    config = recipe.reference
    asked = "reference" in recipe.model_fields_set or recipe.learner.kl.coefficient > 0
    if not config.enabled or (machine.gpus <= 2 and not asked):
        return {"reference.enabled": False}
    ranks = recipe.learner.ranks * share(recipe.learner.gpus)
    keeping = math.ceil(ranks * scoring_s(shape) / learning_s(recipe, shape) / share(config.gpus))
    return {"reference.actors": next(_open(config, "actors", [min(keeping, config.max_actors or keeping)]))}


def _tensor_parallel(recipe: Recipe, shape: Shape, machine: Machine) -> int:
    """GPUs of an engine: the fewest that divide the heads, lie on one node and hold a group; the most there can be where none do."""
    most = max(1, min(machine.gpus - 1, machine.gpus_per_node))
    widths = [1] if recipe.generation.gpus < 1 else [2**power for power in range(most.bit_length()) if shape.divides_by(2**power)]
    chosen = list(_open(recipe.generation, "tensor_parallel", widths))
    for width in chosen:
        room = estimate(changed(recipe, {"generation.tensor_parallel": width}), shape, machine).pool("engines").room
        if room is not None and room.responses >= recipe.generation.group_size:
            return int(width)
    return int(chosen[-1])


def _halves(recipe: Recipe) -> list[int]:
    """The recipe's micro-batch and halves of it, down to one response of full length."""
    tokens, longest = recipe.learner.micro_batch_tokens, recipe.prompts.max_tokens + recipe.generation.max_tokens
    halves = [tokens]
    while halves[-1] // 2 >= longest:
        halves.append(halves[-1] // 2)
    return halves


def _open(section: Section, field: str, choices: Sequence[Any]) -> Iterator[Any]:
    """The choices, unless the recipe has made the choice."""
    if field in section.model_fields_set:
        yield getattr(section, field)
    else:
        yield from choices
