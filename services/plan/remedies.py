"""What would make a recipe fit that does not: single changes, each tried."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from actors.learner.config import DeepSpeedConfig, Fsdp2Config, LoraConfig
from services.config import Recipe
from services.plan.estimate import Machine
from services.plan.layout import Layout, changed, choose

MOST_NODES = 16
"""Nodes up to which more GPUs are tried."""
ENGINE_PART, LEARNER_PART, REFERENCE_PART = 0.4, 0.4, 0.2
"""Of the only GPU there is, where all pools share it."""


def remedies(layout: Layout) -> Iterator[str]:
    """The changes under which what was asked for fits, in words."""
    found = layout.estimate
    shape, machine = found.shape, found.machine
    for words, values in _changes(layout.asked, machine):
        if choose(changed(layout.asked, values), shape, machine).estimate.fits:
            yield words
    if any(pool.start > pool.limit for pool in found.pools):
        return  # no number of GPUs helps
    nodes = range(machine.gpus_per_node, MOST_NODES * machine.gpus_per_node + 1, machine.gpus_per_node)
    for gpus in (*range(2, machine.gpus_per_node), *nodes):
        wider = Machine(gpus, machine.gpu_bytes, machine.gpus_per_node)
        if gpus > machine.gpus and choose(layout.asked, shape, wider).estimate.fits:
            yield f"{gpus} GPUs"
            return


def _changes(recipe: Recipe, machine: Machine) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(overrides, value by path) of each single change."""
    if recipe.learner.lora is None:
        yield "learner.lora={rank: 32}", {"learner.lora": LoraConfig()}
    if isinstance(recipe.learner.backend, DeepSpeedConfig):
        offloaded = recipe.learner.backend.model_copy(update={"offload_optimizer": True})
        yield "learner.backend.offload_optimizer=true", {"learner.backend": offloaded}
    else:
        yield "learner.backend={type: fsdp2, cpu_offload: true}", {"learner.backend": Fsdp2Config(cpu_offload=True)}
        sharded = DeepSpeedConfig(stage=3, offload_optimizer=True)
        yield "learner.backend={type: deepspeed, stage: 3, offload_optimizer: true}", {"learner.backend": sharded}
    if recipe.reference.enabled and recipe.learner.kl.coefficient == 0:
        yield "reference.enabled=false", {"reference.enabled": False}
    if machine.gpus == 1 and recipe.generation.tensor_parallel == recipe.learner.ranks == 1:
        yield _sharing(recipe)


def _sharing(recipe: Recipe) -> tuple[str, Mapping[str, Any]]:
    """All pools on one GPU."""
    words = f"generation={{gpus: {ENGINE_PART}, gpu_memory_share: {ENGINE_PART}}} learner.gpus={LEARNER_PART}"
    values = {"generation.gpus": ENGINE_PART, "generation.gpu_memory_share": ENGINE_PART, "learner.gpus": LEARNER_PART}
    if not recipe.reference.enabled:
        return words, values
    return f"{words} reference.gpus={REFERENCE_PART}", values | {"reference.gpus": REFERENCE_PART}
