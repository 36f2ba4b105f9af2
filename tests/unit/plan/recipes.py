"""The paper's recipe and its policy's shape, for tests."""

from __future__ import annotations

from services.config import Recipe, load_recipe
from services.plan.commands import PAPER
from services.plan.estimate import Machine
from services.plan.parts import GIB
from services.plan.shapes import PUBLISHED

MATH_7B = PUBLISHED["Qwen/Qwen2.5-Math-7B"]
EIGHT = Machine(gpus=8, gpu_bytes=80 * GIB, gpus_per_node=8)


def paper(*overrides: str) -> Recipe:
    """The paper's recipe with `section.field=value` overrides."""
    return load_recipe(PAPER, overrides)
