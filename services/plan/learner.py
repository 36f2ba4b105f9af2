"""Memory of one learner rank, as actors/learner builds it. P parameters, T of them trained, R ranks; master weights are float32.

FSDP2 shards master weights (4 P / R), AdamW's two moments (8 T / R) and reduced gradients (4 T / R). Before the last micro-batch of an
update gradients add up whole and in float32 (4 T): with several micro-batches a rank must hold that, however many ranks there are.
The model is put whole on the device (4 P) before it is sharded.
"""

from __future__ import annotations

from dataclasses import dataclass

from actors.learner.config import DeepSpeedConfig, Fsdp2Config
from services.config import Recipe
from services.plan import activations
from services.plan.parts import BYTES, Parts, Peak, highest
from services.plan.shapes import Shape

MASTER, MOMENTS, GRADIENT = 4, 8, 4
"""Bytes for each parameter: its float32 master, AdamW's two moments, its float32 gradient."""
DEEPSPEED_BUCKETS = 2 * 200_000_000
"""Bytes of the two buckets in which DeepSpeed reduces gradients; as in actors.learner.backends.deepspeed, 200 MB each."""


@dataclass(frozen=True, slots=True)
class Rank:
    """What one rank holds. On a CPU both are in host memory."""

    device: Peak
    host: Parts  # beside the process itself: what a GPU's rank keeps outside its GPU, and the copies that are written
    once: Parts  # the same, of rank 0 alone


def rank(recipe: Recipe, shape: Shape, *, gpu: bool) -> Rank:
    """Memory of one rank of the recipe's learner."""
    config, number, ranks = recipe.learner, BYTES[recipe.policy.dtype], recipe.learner.ranks
    trained = trained_parameters(recipe, shape)
    passes = _passes(recipe, shape, gpu=gpu)
    match config.backend:
        case Fsdp2Config(cpu_offload=offload):
            state = _sharded_state(shape, trained, ranks)
            moving = _fsdp2_gradients(recipe, shape, trained, number)
            host: dict[str, float] = {}
            if offload and gpu:
                host, state = {"offloaded weights, gradients, moments": sum(state.values()) + GRADIENT * trained / ranks}, {}
            start = {"whole model in float32, before it is sharded": MASTER * shape.parameters}
            snapshot = (MASTER * shape.parameters + MOMENTS * trained) / ranks
        case DeepSpeedConfig(stage=stage, offload_optimizer=offload):
            state = _zero_state(shape, trained, ranks, number, stage)
            moving = {"gradients being reduced": DEEPSPEED_BUCKETS + number * max(shape.ends, shape.layer)}
            host = {}
            if offload and gpu:
                kept = "weights that compute"
                host = {f"offloaded {name}": size for name, size in state.items() if name != kept}
                state = {kept: state[kept]}
            start = {"whole model, before it is partitioned": (MASTER if not gpu else number) * shape.parameters}
            snapshot = (MASTER + MOMENTS) * trained / ranks
    training = Peak("training", {**state, **moving, **passes})
    publishing = Peak("publishing", {**state, "tensor and bucket being sent": (MASTER + 3 * number) * shape.embedding})
    copies = {"copy that the checkpoint is written from": snapshot}
    loading = {"whole model in float32, as it is read": MASTER * shape.parameters} if gpu else {}
    written = {"policy that is written for serving": number * shape.parameters}
    return Rank(
        device=highest([training, publishing, Peak("starting", start)]),
        host={**host, **_larger(copies, loading)},
        once=written,
    )


def trained_parameters(recipe: Recipe, shape: Shape) -> int:
    """Parameters that have gradients and moments: all, or those of the adapters."""
    lora = recipe.learner.lora
    return shape.parameters if lora is None else shape.adapters(lora)


def micro_batch(recipe: Recipe) -> tuple[int, int]:
    """(tokens of a rank's largest micro-batch, micro-batches of an update) if all responses have full length."""
    rows = -(-recipe.run.prompts_per_step * recipe.generation.group_size // (recipe.learner.updates_per_step * recipe.learner.ranks))
    longest = recipe.prompts.max_tokens + recipe.generation.max_tokens
    each = max(1, recipe.learner.micro_batch_tokens // longest)  # a longer response is a pass alone
    return longest * min(rows, each), -(-rows // each)


def _passes(recipe: Recipe, shape: Shape, *, gpu: bool) -> Parts:
    config, number = recipe.learner, BYTES[recipe.policy.dtype]
    tokens, _ = micro_batch(recipe)
    responses = tokens * recipe.generation.max_tokens // (recipe.prompts.max_tokens + recipe.generation.max_tokens)
    name = "activations, recomputed" if config.activation_checkpointing else "activations"
    return {
        f"{name} ({tokens:,} tokens)": activations.learning(shape, tokens, number, checkpointing=config.activation_checkpointing),
        "log-probs in blocks": activations.logprobs(shape, responses, number, "cuda" if gpu else "cpu", learns=True),
    }


def _sharded_state(shape: Shape, trained: int, ranks: int) -> dict[str, float]:
    return {"master weights": MASTER * shape.parameters / ranks, "moments": MOMENTS * trained / ranks}


def _fsdp2_gradients(recipe: Recipe, shape: Shape, trained: int, number: int) -> Parts:
    """Gradients, and the parameters that are whole for the moment: what lies outside the layers, and two layers.

    What is whole until the last micro-batch leaves layer by layer then, so the reduction of all that lies outside the layers, which comes
    last, finds room.
    """
    _, count = micro_batch(recipe)
    share = trained / shape.parameters
    largest = max(shape.ends, shape.layer)
    gathered = {"gathered weights": number * (shape.ends + 2 * shape.layer)}
    if count > 1:
        newest = (number * largest + GRADIENT * shape.layer) * share
        return {"gradients, whole until the last micro-batch": GRADIENT * trained, "gradients of one micro-batch": newest, **gathered}
    reducing = (GRADIENT + number) * largest * share
    return {"gradients": GRADIENT * trained / recipe.learner.ranks, "gradients being reduced": reducing, **gathered}


def _zero_state(shape: Shape, trained: int, ranks: int, number: int, stage: int) -> dict[str, float]:
    computing = number * shape.parameters if stage == 2 else number * (shape.parameters / ranks + shape.ends + 2 * shape.layer)
    return {
        "weights that compute": computing,
        "master weights": MASTER * trained / ranks,
        "moments": MOMENTS * trained / ranks,
        "gradients": GRADIENT * trained / ranks,
    }


def _larger(one: Parts, other: Parts) -> Parts:
    return max(one, other, key=lambda parts: sum(parts.values()))
