"""The paper's layout beside a disjoint one: all GPUs generate, then all learn, and the engines sleep meanwhile (arXiv 2507.20673).

As its scripts say: ZeRO-2 in bfloat16, recomputed activations, engines with 0.35 of each GPU, no reference model. This project does not
offer that layout; the figures are there to compare.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from services.plan.estimate import Machine
from services.plan.inference import generation_engine
from services.plan.layout import Layout, changed
from services.plan.learner import MASTER, MOMENTS
from services.plan.pace import decoding_s, learning_s, step_tokens
from services.plan.parts import Part, Parts
from services.plan.shapes import Shape

SHARE = 0.35
"""Of each GPU, for its engine."""
COMPUTING = 2
"""Bytes of a bfloat16 weight or gradient."""


@dataclass(frozen=True, slots=True)
class Colocated:
    """One GPU of that layout, and how fast all are together."""

    learner: Parts
    engine: float  # bytes; given back while the engine sleeps
    responses: int  # whole ones that an engine has room for
    generation_s: float  # of a step, and then
    learning_s: float

    @property
    def step_s(self) -> float:
        """Seconds of a step, if no engine waited for another's longest response, and waking cost nothing."""
        return self.generation_s + self.learning_s


def colocated(layout: Layout, shape: Shape, machine: Machine) -> Colocated:
    """The same work on the same GPUs, in the paper's way."""
    engines = {"generation.gpu_memory_share": SHARE, "generation.kv_cache_mib": None, "generation.tensor_parallel": 1}
    recipe = changed(layout.recipe, engines | {"learner.activation_checkpointing": True})
    engine = generation_engine(recipe, shape, machine.gpu_bytes)
    engine = replace(engine, kv_bytes=max(0.0, engine.kv_bytes))
    tokens = step_tokens(recipe)
    return Colocated(
        learner={
            Part.WEIGHTS: COMPUTING * shape.parameters,
            Part.GRADIENTS: COMPUTING * shape.parameters / machine.gpus,
            Part.MASTER_WEIGHTS: MASTER * shape.parameters / machine.gpus,
            Part.MOMENTS: MOMENTS * shape.parameters / machine.gpus,
        },
        engine=SHARE * machine.gpu_bytes,
        responses=engine.responses,
        generation_s=tokens * decoding_s(recipe, shape, engine, 1) / machine.gpus,
        learning_s=tokens * learning_s(recipe, shape) / machine.gpus,
    )
