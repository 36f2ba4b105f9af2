"""What would make a recipe fit that does not: single changes, each tried."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from actors.learner.config import DeepSpeedConfig, Fsdp2Config, LoraConfig
from services.config import Recipe
from services.plan.estimate import Machine
from services.plan.layout import changed, choose
from services.plan.shapes import Shape

MOST_NODES = 16
"""Nodes up to which more GPUs are tried."""


def remedies(recipe: Recipe, shape: Shape, machine: Machine) -> Iterator[str]:
    """The changes under which the recipe fits, in words."""
    for words, path, value in _changes(recipe):
        if choose(changed(recipe, {path: value}), shape, machine).estimate.fits:
            yield words
    nodes = range(machine.gpus_per_node, MOST_NODES * machine.gpus_per_node + 1, machine.gpus_per_node)
    for gpus in (*range(2, machine.gpus_per_node), *nodes):
        wider = Machine(gpus, machine.gpu_bytes, machine.gpus_per_node)
        if gpus > machine.gpus and choose(recipe, shape, wider).estimate.fits:
            yield f"{gpus} GPUs"
            return


def _changes(recipe: Recipe) -> Iterator[tuple[str, str, Any]]:
    """(override, path, value) of each single change."""
    if recipe.learner.lora is None:
        yield "learner.lora={rank: 32}", "learner.lora", LoraConfig()
    if isinstance(recipe.learner.backend, DeepSpeedConfig):
        offloaded: Any = recipe.learner.backend.model_copy(update={"offload_optimizer": True})
        yield "learner.backend.offload_optimizer=true", "learner.backend", offloaded
    else:
        yield "learner.backend={type: fsdp2, cpu_offload: true}", "learner.backend", Fsdp2Config(cpu_offload=True)
    if recipe.reference.enabled and recipe.learner.kl.coefficient == 0:
        yield "reference.enabled=false", "reference.enabled", False
