"""Memory of what only runs forward: generation engines, reference scorers, the endpoint's engines."""

from __future__ import annotations

from dataclasses import dataclass

from services.config import Recipe
from services.plan import activations
from services.plan.parts import BYTES, GIB, MIB, Part, Parts, Peak, size
from services.plan.shapes import Shape

PREFILL_TOKENS = {"cpu": 8_192, "cuda": 2_048}
"""Tokens of a forward pass: what this project asks of vLLM on a CPU, and vLLM's own default for an engine inside a program."""
GRAPHS = 1 * GIB
"""Assumed: vLLM's captured CUDA graphs and compiled code on one GPU."""
CONTEXT = 1.5 * GIB
"""Assumed: CUDA's context, NCCL's buffers and cuBLAS's workspace of one process on a GPU."""
CPU_KV_MIB = 256
"""Keys and values of an engine on a CPU whose recipe does not say."""


@dataclass(frozen=True, slots=True)
class Engine:
    """One engine on one of its GPUs, or on a CPU; and what its memory for keys and values can hold."""

    memory: Peak
    kv_bytes: float  # there are; not positive where weights and passes leave nothing
    kv_token: int  # for one token
    response_tokens: int  # longest prompt and response

    @property
    def responses(self) -> int:
        """Whole sequences of the greatest length that have room together."""
        return max(0, int(self.kv_bytes // (self.kv_token * self.response_tokens)))


def generation_engine(recipe: Recipe, shape: Shape, gpu_bytes: float | None) -> Engine:
    """One generation engine; `gpu_bytes` is a GPU's memory, None on a CPU."""
    config, number = recipe.generation, BYTES[recipe.policy.dtype]
    bucket = min(max(recipe.weights.bucket_mib * MIB, number * shape.embedding), number * shape.parameters)
    receiving = {Part.RECEIVED_WEIGHTS: 2 * bucket + number * max(shape.embedding, shape.layer)}
    own = _engine_parts(shape, number, config.tensor_parallel, config.max_running, "cuda" if gpu_bytes else "cpu")
    if gpu_bytes is not None and not config.eager:
        own |= {Part.GRAPHS: GRAPHS}
    kv = _keys_and_values(own, config.kv_cache_mib, config.gpu_memory_share, gpu_bytes)
    held = {**own, Part.KEYS_AND_VALUES: max(0.0, kv), **receiving}
    return Engine(Peak("receiving weights", held), kv, shape.kv_bytes(number, config.tensor_parallel), recipe.max_model_len)


def endpoint_engine(recipe: Recipe, shape: Shape, gpu_bytes: float | None) -> Engine:
    """The engine of one replica of the endpoint beside a run, which holds one version."""
    config = recipe.serve
    number = BYTES[recipe.policy.dtype if config.dtype == "auto" else config.dtype]
    longest = config.max_model_len or shape.max_positions or recipe.max_model_len
    own = _engine_parts(shape, number, max(1, config.gpus), config.max_running, "cuda" if gpu_bytes else "cpu")
    kv = _keys_and_values(own, config.kv_cache_mib, config.gpu_memory_share, gpu_bytes)
    held = {**own, Part.KEYS_AND_VALUES: max(0.0, kv)}
    return Engine(Peak("answering", held), kv, shape.kv_bytes(number, max(1, config.gpus)), longest)


def most_scorers(recipe: Recipe) -> int:
    """Reference scorers that there can be at once; 0 without a reference."""
    config = recipe.reference
    return max(config.actors, config.max_actors or 0) if config.enabled else 0


def scorer(recipe: Recipe, shape: Shape, *, gpu: bool) -> Peak:
    """One reference scorer: the whole model in the policy's type, and one forward pass."""
    number = BYTES[recipe.policy.dtype]
    longest = recipe.prompts.max_tokens + recipe.generation.max_tokens
    tokens = min(max(recipe.reference.batch_tokens, longest), recipe.generation.group_size * longest)
    parts = {
        Part.WEIGHTS: float(number * shape.parameters),
        Part.ACTIVATIONS: activations.scoring(shape, tokens, number),
        Part.LOGPROBS: activations.logprobs(shape, tokens, number, "cuda" if gpu else "cpu", learns=False),
    }
    return Peak("scoring", parts | ({Part.CONTEXT: CONTEXT} if gpu else {}), tokens)


def _engine_parts(shape: Shape, number: int, tensor_parallel: int, running: int, device: str) -> dict[Part, float]:
    """Weights, and the largest pass: prefill through one layer, and some copies of the logits that responses are sampled from."""
    passes = activations.scoring(shape, PREFILL_TOKENS[device], number) / tensor_parallel
    sampling = 4 * activations.LOGIT * running * shape.vocabulary
    context = {Part.CONTEXT: CONTEXT} if device == "cuda" else {}
    return {Part.WEIGHTS: number * shape.parameters / tensor_parallel, Part.PASSES: passes + sampling, **context}


def _keys_and_values(own: Parts, asked_mib: int | None, share: float, gpu_bytes: float | None) -> float:
    """Bytes of them: what is asked for, else what an engine's share of a GPU leaves; negative where it leaves less than nothing."""
    if asked_mib or gpu_bytes is None:
        return float((asked_mib or CPU_KV_MIB) * MIB)
    return share * gpu_bytes - size(own)
