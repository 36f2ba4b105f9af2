"""Disk that a run takes under its retention rules: checkpoints, servable versions, recorded rollouts."""

from __future__ import annotations

from dataclasses import dataclass

from actors.learner.config import DeepSpeedConfig
from services.config import Recipe
from services.plan.learner import MASTER, MOMENTS, trained_parameters
from services.plan.parts import BYTES
from services.plan.shapes import Shape

PROTECTED = 2
"""Versions kept beside the newest: the start and the best."""
RECORDED_TOKEN = 16
"""Bytes of a recorded token before compression: id, two log-probs, text."""


@dataclass(frozen=True, slots=True)
class Disk:
    """Bytes of one of each kind, and how many there are at most at once, one being written."""

    checkpoint: float
    checkpoints: int
    version: float
    versions: int
    rollouts: float  # of the whole run, if all responses had full length

    @property
    def size(self) -> float:
        """Bytes in all."""
        return self.checkpoint * self.checkpoints + self.version * self.versions + self.rollouts


def disk(recipe: Recipe, shape: Shape) -> Disk:
    """What the recipe's run directory and storage grow to. Groups in checkpoints, ledger and metrics are small beside it."""
    trained = trained_parameters(recipe, shape)
    masters = trained if isinstance(recipe.learner.backend, DeepSpeedConfig) else shape.parameters  # DeepSpeed's leave out frozen ones
    written = recipe.run.steps // recipe.run.export_every + 2
    rows = recipe.run.prompts_per_step * recipe.generation.group_size
    tokens = rows * (recipe.prompts.max_tokens + recipe.generation.max_tokens)
    return Disk(
        checkpoint=MASTER * masters + MOMENTS * trained,
        checkpoints=recipe.learner.keep_checkpoints + 1,
        version=BYTES[recipe.policy.dtype] * shape.parameters,
        versions=min(recipe.run.keep_policies + PROTECTED + 1, written),
        rollouts=recipe.run.steps * recipe.run.record_share * tokens * RECORDED_TOKEN,
    )
