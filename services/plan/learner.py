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
from services.plan.parts import BYTES, Part, Parts, Peak, highest, size
from services.plan.shapes import Shape

MASTER, MOMENTS, GRADIENT = 4, 8, 4
"""Bytes for each parameter: its float32 master, AdamW's two moments, its float32 gradient."""
DEEPSPEED_BUCKETS = 2 * 200_000_000
"""Bytes of the two buckets in which DeepSpeed reduces gradients; as in actors.learner.backends.deepspeed, 200 MB each."""


@dataclass(frozen=True, slots=True)
class Rank:
    """What one rank holds. On a CPU all of it is in host memory."""

    device: Peak
    start: float  # bytes on the device before the model is divided: no number of ranks lowers it
    host: Parts  # beside the process itself: what a GPU's rank keeps outside its GPU, and the copies that are written
    once: Parts  # the same, of rank 0 alone


@dataclass(frozen=True, slots=True)
class Held:
    """What a backend keeps of the model and its optimizer, in one rank."""

    always: Parts  # on the device
    training: Parts  # there too, during forward and backward passes
    offloaded: float  # bytes in host memory
    start: float  # bytes of the model on the device before it is divided
    snapshot: float  # bytes of the copy that a checkpoint is written from


def rank(recipe: Recipe, shape: Shape, *, gpu: bool) -> Rank:
    """Memory of one rank of the recipe's learner."""
    number = BYTES[recipe.policy.dtype]
    match recipe.learner.backend:
        case Fsdp2Config(cpu_offload=offload):
            held = _fsdp2(recipe, shape, offload=offload and gpu)
        case DeepSpeedConfig(stage=stage, offload_optimizer=offload):
            held = _deepspeed(recipe, shape, stage, offload=offload and gpu, start_number=number if gpu else MASTER)
    tokens, _ = micro_batch(recipe)
    training = Peak("training", {**held.always, **held.training, **_passes(recipe, shape, gpu=gpu)}, tokens)
    publishing = Peak("publishing", {**held.always, Part.SENT_WEIGHTS: (MASTER + 3 * number) * shape.embedding})
    starting = Peak("starting", {Part.WHOLE_MODEL: held.start})
    offloaded = {Part.OFFLOADED: held.offloaded} if held.offloaded else {}
    loading = MASTER * shape.parameters if gpu else 0
    copy: Parts = {Part.MODEL_READ: loading} if loading > held.snapshot else {Part.CHECKPOINT_COPY: held.snapshot}
    return Rank(
        device=highest([training, publishing, starting]),
        start=held.start,
        host={**offloaded, **copy},  # the two copies are never there together
        once={Part.EXPORT: number * shape.parameters},
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
    number, recomputed = BYTES[recipe.policy.dtype], recipe.learner.activation_checkpointing
    tokens, _ = micro_batch(recipe)
    responses = tokens * recipe.generation.max_tokens // (recipe.prompts.max_tokens + recipe.generation.max_tokens)
    part = Part.RECOMPUTED_ACTIVATIONS if recomputed else Part.ACTIVATIONS
    return {
        part: activations.learning(shape, tokens, number, checkpointing=recomputed),
        Part.LOGPROBS: activations.logprobs(shape, responses, number, "cuda" if gpu else "cpu", learns=True),
    }


def _fsdp2(recipe: Recipe, shape: Shape, *, offload: bool) -> Held:
    trained, ranks = trained_parameters(recipe, shape), recipe.learner.ranks
    sharded = {Part.MASTER_WEIGHTS: MASTER * shape.parameters / ranks, Part.MOMENTS: MOMENTS * trained / ranks}
    return Held(
        always={} if offload else sharded,
        training=_fsdp2_gradients(recipe, shape, trained),
        offloaded=size(sharded) + GRADIENT * trained / ranks if offload else 0.0,
        start=MASTER * shape.parameters,
        snapshot=size(sharded),
    )


def _fsdp2_gradients(recipe: Recipe, shape: Shape, trained: int) -> Parts:
    """Gradients, and the parameters that are whole for the moment: what lies outside the layers, and two layers.

    What is whole until the last micro-batch leaves layer by layer then, so the reduction of all that lies outside the layers, which comes
    last, finds room.
    """
    _, count = micro_batch(recipe)
    number, share = BYTES[recipe.policy.dtype], trained / shape.parameters
    largest = max(shape.ends, shape.layer)
    gathered = {Part.GATHERED_WEIGHTS: number * (shape.ends + 2 * shape.layer)}
    if count > 1:
        newest = (number * largest + GRADIENT * shape.layer) * share
        return {Part.WHOLE_GRADIENTS: GRADIENT * trained, Part.NEW_GRADIENTS: newest, **gathered}
    reducing = (GRADIENT + number) * largest * share
    return {Part.GRADIENTS: GRADIENT * trained / recipe.learner.ranks, Part.REDUCED_GRADIENTS: reducing, **gathered}


def _deepspeed(recipe: Recipe, shape: Shape, stage: int, *, offload: bool, start_number: int) -> Held:
    """ZeRO; `start_number` is the bytes of a parameter before the model is partitioned."""
    trained, ranks, number = trained_parameters(recipe, shape), recipe.learner.ranks, BYTES[recipe.policy.dtype]
    whole, divided = number * shape.parameters, number * (shape.parameters / ranks + shape.ends + 2 * shape.layer)
    computing = {Part.COMPUTING_WEIGHTS: whole if stage == 2 else divided}
    optimizer = {
        Part.MASTER_WEIGHTS: MASTER * trained / ranks,
        Part.MOMENTS: MOMENTS * trained / ranks,
        Part.GRADIENTS: GRADIENT * trained / ranks,
    }
    return Held(
        always=computing if offload else computing | optimizer,
        training={Part.REDUCED_GRADIENTS: DEEPSPEED_BUCKETS + number * max(shape.ends, shape.layer)},
        offloaded=size(optimizer) if offload else 0.0,
        start=start_number * shape.parameters,
        snapshot=(MASTER + MOMENTS) * trained / ranks,
    )
