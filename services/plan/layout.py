"""Chooses a disjoint layout: which GPUs generate, which learn, which score. What the recipe says stays; what it leaves open is chosen.

    an engine    takes the fewest GPUs that share its weights and have room for one whole group of responses
    reference    keeps pace with the learner; none where there are just two GPUs and no KL term needs it
    learner      keeps its activations or recomputes them, in the recipe's micro-batches or halves of them
    engines      get all other GPUs

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
from services.plan.pace import Pace, learning_s, pace, scoring_s
from services.plan.shapes import Shape


@dataclass(frozen=True, slots=True)
class Layout:
    """A recipe with every choice made, and what comes of it."""

    asked: Recipe  # as it was given
    recipe: Recipe  # with every choice made
    changes: Mapping[str, Any]  # what was chosen: value by the path of the recipe's field
    estimate: Estimate
    pace: Pace | None  # None on CPUs


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


def _layout(recipe: Recipe, changes: Mapping[str, Any], shape: Shape, machine: Machine) -> Layout:
    chosen = changed(recipe, changes)
    found = estimate(chosen, shape, machine)
    room = found.pool("engines").room
    assert room is not None  # engines always have some figure of it
    return Layout(recipe, chosen, changes, found, pace(chosen, shape, room))


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
    answering = recipe.serve.replicas * recipe.serve.gpus if recipe.serve.during_training else 0
    for ranks in _open(recipe.learner, "ranks", range(1, max(2, machine.gpus))):
        for recomputed in _open(recipe.learner, "activation_checkpointing", (False, True)):
            learner = {"learner.ranks": ranks, "learner.activation_checkpointing": recomputed, "learner.micro_batch_tokens": micro}
            scorers = _scorers(changed(recipe, learner), shape, machine)
            left = machine.gpus - answering - ranks * recipe.learner.gpus - scorers * recipe.reference.gpus
            if left < wide and ranks > 1 and "ranks" not in recipe.learner.model_fields_set:
                return
            reference = {"reference.enabled": True, "reference.actors": scorers} if scorers else {"reference.enabled": False}
            engines = next(_open(recipe.generation, "engines", [max(1, int(left // wide))]))
            yield {"generation.engines": engines, "generation.tensor_parallel": wide, **learner, **reference}


def _scorers(recipe: Recipe, shape: Shape, machine: Machine) -> int:
    """Reference scorers that keep pace with this learner, or as many as the recipe says."""
    config = recipe.reference
    if not config.enabled or ("enabled" not in config.model_fields_set and recipe.learner.kl.coefficient == 0 and machine.gpus <= 2):
        return 0
    keeping = math.ceil(recipe.learner.ranks * scoring_s(shape) / learning_s(recipe, shape))
    return int(next(_open(config, "actors", [keeping])))


def _tensor_parallel(recipe: Recipe, shape: Shape, machine: Machine) -> int:
    """GPUs of an engine: the fewest that divide the heads, lie on one node and hold a group; the most there can be where none do."""
    most = max(1, min(machine.gpus - 1, machine.gpus_per_node))
    widths = [width for width in range(1, most + 1) if shape.heads % width == 0 and width & (width - 1) == 0]
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
