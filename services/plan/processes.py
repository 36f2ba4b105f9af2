"""What the processes of a run keep in host memory whatever the model: Python, its imports, Ray. Measured, not derived.

Private memory (RssAnon) at its peak during the tiny recipe on a CPU, less what the formulas here say of the model; Linux 6.18, Python
3.11.7, Ray 2.60.0, torch 2.13.0+cpu, vLLM 0.32.0 (CPU), transformers 5.19.0. The pages of libraries are shared by all processes of a
node: they are counted once, in LIBRARIES.
"""

from __future__ import annotations

from actors.prompts.config import DigitsSource
from services.config import Recipe
from services.plan.parts import GIB, MIB

DRIVER = 435 * MIB
"""The driver, with the conductor."""
RECORDS = 170 * MIB
"""The queue (70) and the recorder (100) before they hold groups."""
ENGINE_ACTOR = 450 * MIB
"""The actor around an engine, a generation engine's or the endpoint's: vLLM imported, no model."""
ENGINE_CORE = 560 * MIB
"""vLLM's own process, which holds the model on a CPU; between 480 and 620 by run and moment, as much of the keys and values is touched."""
RANK = 365 * MIB
"""A learner rank: torch, transformers, Ray Train."""
TRAIN_CONTROL = 840 * MIB
"""Ray Train's controller (290) and its five helpers (about 110 each)."""
SCORER = 300 * MIB
"""A reference scorer: torch and transformers."""
REWARD_ACTOR = 69 * MIB
"""A reward actor without its children."""
CHILD, SYMBOLIC_CHILD = 26 * MIB, 100 * MIB
"""A verifier's child for digit problems, and one in which SymPy has worked for long."""
RAY = 345 * MIB
"""Ray's own processes on the head node, without the dashboard's modules: GCS, raylet, agents, monitors."""
LIBRARIES = 270 * MIB
"""Pages of libraries in use on a node, shared by all processes: CPU builds of torch and vLLM."""
CUDA_PROCESS = 2 * GIB
"""Assumed, not measured: what a process that uses a GPU adds in host memory (driver, pinned buffers, CUDA's libraries)."""


def verifier_child(recipe: Recipe) -> int:
    """Bytes of one verifier's child, by what it grades."""
    digits = isinstance(recipe.prompts.source, DigitsSource) and recipe.prompts.task is None
    return CHILD if digits and all(part.type == "verifier" and part.task is None for part in recipe.reward.parts) else SYMBOLIC_CHILD


def groups_under_way(recipe: Recipe) -> int:
    """Bytes of object store that all groups under the staleness bound can take: ids, log-probs, mask, and four bytes of text a token."""
    response = recipe.generation.max_tokens * (4 + 4 + 4 + 1 + 4)
    return recipe.outstanding * (recipe.generation.group_size * response + 8 * recipe.prompts.max_tokens)
