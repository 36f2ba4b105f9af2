"""What can be known to fail before anything starts: recipes, models, prompts, verifiers and machines that do not go together."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from actors.errors import ConfigError
from actors.modeling.config import TinyPolicy
from actors.modeling.loading import check_head_size, check_model
from actors.prompts import sources
from actors.prompts.stream import PromptStream
from actors.reward.config import FunctionPart, RewardConfig, VerifierPart
from actors.reward.pool import Verifier
from actors.reward.verifiers import CODE, known
from services import cluster
from services.config import Recipe
from services.telemetry.trackers import require_packages


def check(recipe: Recipe) -> None:
    """Refuse what can be known to fail before anything starts."""
    sources.check(recipe.prompts)
    require_packages(recipe.telemetry.trackers)
    check_device(recipe, gpu=not cluster.knows_gpus(recipe.cluster) or cluster.has_gpu(recipe.cluster))  # else looked at again, once known
    programs = [part.task for part in recipe.reward.parts if isinstance(part, VerifierPart) and part.task == CODE]
    if programs or any(isinstance(part, FunctionPart) for part in recipe.reward.parts):
        asyncio.run(check_verifier(recipe.reward, programs))


def check_device(recipe: Recipe, *, gpu: bool) -> None:
    """Refuse what the devices that models run on cannot do, or this machine has not got."""
    if not gpu and recipe.generation.tensor_parallel > 1:
        raise ConfigError("generation.tensor_parallel: only GPUs can share an engine's weights, and there are none")
    cluster.check_own(recipe, gpu=gpu)
    policy = recipe.policy
    if isinstance(policy, TinyPolicy):
        check_head_size(policy.hidden_size // policy.heads, gpu=gpu)
    elif Path(policy.path).exists() or policy.revision is None:
        check_length(check_model(policy.path, gpu=gpu), recipe)


def check_length(model: Mapping[str, Any], recipe: Recipe) -> None:
    """Refuse sequences longer than the model was built for."""
    longest = model.get("max_position_embeddings")
    if longest is not None and recipe.max_model_len > longest:
        raise ConfigError(
            f"prompts.max_tokens, generation.max_tokens: together {recipe.max_model_len} tokens, and the model is built for {longest}"
        )


async def check_verifier(config: RewardConfig, tasks: Sequence[str]) -> None:
    """Refuse reward functions that cannot be imported, and programs that could not be shut in: a verifier's child finds out."""
    verifier = Verifier(config.model_copy(update={"workers": 1}), tasks)
    try:
        await verifier.ready()
    finally:
        await verifier.close()


def check_tasks(recipe: Recipe, stream: PromptStream) -> None:
    """Refuse prompts that no verifier can grade."""
    if not recipe.reward.by_task:
        return
    tasks = tasks_of(stream)
    for task in tasks:
        if not known(task):
            raise ConfigError(f"prompts.task: no verifier is called {task!r}")
    if CODE in tasks:
        asyncio.run(check_verifier(recipe.reward, [CODE]))


def check_learnable(recipe: Recipe, model: str) -> None:
    """Refuse a model that cannot be scored packed, or adapted as asked: found out on its shapes alone."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from actors.learner.lora import attach
    from actors.modeling.scoring import Scorer

    with torch.device("meta"):
        shapes = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model, trust_remote_code=False))
        if recipe.learner.lora is not None:
            attach(shapes, recipe.learner.lora)
        Scorer(shapes)
    check_context(shapes.config, recipe.max_model_len)


def check_context(config: Any, longest: int) -> None:
    """Refuse sequences that the model would not read as a whole, or by other frequencies than shorter ones they are packed with."""
    window = getattr(config, "sliding_window", None)
    if window and longest > window and "sliding_attention" in (getattr(config, "layer_types", None) or ()):
        raise ConfigError(f"generation.max_tokens: sequences of {longest} tokens do not fit the model's sliding window of {window}")
    rope = getattr(config, "rope_parameters", None) or {}
    original = rope.get("original_max_position_embeddings") or config.max_position_embeddings
    if rope.get("rope_type") in {"dynamic", "longrope"} and longest > original:
        raise ConfigError(
            f"generation.max_tokens: beyond {original} tokens the model's {rope['rope_type']} positions depend on the longest of a batch"
        )


def tasks_of(stream: PromptStream) -> list[str]:
    """The verifiers that the prompts name: of every prompt of a finite source, of a few of an endless one."""
    return sorted({stream.nth(ordinal).task for ordinal in range(stream.epoch_size or 8)})
