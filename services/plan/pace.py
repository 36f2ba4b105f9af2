"""How fast the pools are beside each other, roughly: a roofline with assumed efficiencies, by which GPUs are divided. Nothing is measured.

Learning and scoring are bound by arithmetic, decoding by memory: each step of an engine reads its weights, and the keys and values of the
responses that it decodes together. Responses are taken to be half as long as they may be, and prompts to cost nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from services.config import Recipe
from services.plan.inference import Engine, most_scorers
from services.plan.parts import BYTES
from services.plan.shapes import Shape

PEAK_FLOPS, PEAK_BANDWIDTH = 989.4e12, 3.35e12
"""Of an H100 SXM, as its maker states them: dense bfloat16 operations, bytes of memory, per second."""
FLOPS_USED, BANDWIDTH_USED = 0.4, 0.5
"""Shares of these that are taken to be reached."""
FORWARD, BACKWARD = 2, 4
"""Operations for each parameter and token."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds of a step, if nobody waited for another."""

    generation: float
    learning: float
    reference: float

    @property
    def slowest(self) -> float:
        """Seconds of a step where all pools work at the same time."""
        return max(self.generation, self.learning, self.reference)


def pace(recipe: Recipe, shape: Shape, engine: Engine) -> Pace:
    """Of a recipe on GPUs; `engine` is one of its engines."""
    tokens = step_tokens(recipe)
    engines = recipe.generation.engines * share(recipe.generation.gpus)
    ranks, scorers = recipe.learner.ranks * share(recipe.learner.gpus), most_scorers(recipe) * share(recipe.reference.gpus)
    return Pace(
        generation=tokens * decoding_s(recipe, shape, engine, recipe.generation.tensor_parallel) / engines,
        learning=tokens * learning_s(recipe, shape) / ranks,
        reference=tokens * scoring_s(shape) / scorers if scorers else 0.0,
    )


def share(gpus: float) -> float:
    """How much of a GPU's speed a process has that asks for so many; a part of a GPU is taken to work as large a part of the time."""
    return gpus if 0 < gpus < 1 else 1.0


def step_tokens(recipe: Recipe) -> float:
    """Response tokens of a step."""
    return recipe.run.prompts_per_step * recipe.generation.group_size * recipe.generation.max_tokens / 2


def learning_s(recipe: Recipe, shape: Shape) -> float:
    """Seconds that one GPU learns from a token: the ratio's denominator, the pass forward and back, and forward again where recomputed."""
    forwards = 1 + (recipe.learner.denominator == "recomputed") + recipe.learner.activation_checkpointing
    return (FORWARD * forwards + BACKWARD) * _computing(shape) / (FLOPS_USED * PEAK_FLOPS)


def scoring_s(shape: Shape) -> float:
    """Seconds that one GPU scores a token."""
    return FORWARD * _computing(shape) / (FLOPS_USED * PEAK_FLOPS)


def decoding_s(recipe: Recipe, shape: Shape, engine: Engine, gpus: int) -> float:
    """Seconds from token to token of one engine on so many GPUs, shared among the responses that it decodes together."""
    together = max(1, min(recipe.generation.max_running, engine.responses))
    held = recipe.prompts.max_tokens + recipe.generation.max_tokens / 4  # a response is on average half of its length
    weights = BYTES[recipe.policy.dtype] * _computing(shape) / gpus
    return (weights + together * held * engine.kv_token) / (BANDWIDTH_USED * PEAK_BANDWIDTH) / together


def _computing(shape: Shape) -> int:
    """Parameters that every token is multiplied with: all but the embedding that is looked up."""
    return shape.parameters - (0 if shape.tied else shape.embedding)
