"""Memory of forward and backward passes, per token of a micro-batch: what autograd keeps in this project's decoder and log-probs.

Counted by hand from the operations of transformers' Qwen2 and Qwen3 layers (eager) with the packed attention; the tests hold the count
against what autograd really keeps. `number` is the bytes of the type that a pass computes in.
"""

from __future__ import annotations

from services.plan.shapes import Shape

CHUNK_LOGITS = {"cpu": 2**22, "cuda": 2**26}
KEPT_LOGITS = {"cpu": 2**25, "cuda": 2**27}
"""As in actors.modeling.logprobs, which cannot be imported without torch: logits of a block, and logits kept for the backward pass."""
LOGIT = 4
"""Bytes of a logit: they are computed in float32."""


def layer_kept(shape: Shape, number: int) -> int:
    """Bytes that one decoder layer keeps of a token until its backward pass.

    Norms: the input in float32, the normalised in and the scaled out of it (the input of the matrices that follow). Attention: rotated
    queries and keys, values, its result and the logarithm of each head's sum. Feed-forward: gate, its activation, up, and their product.
    """
    queries, keys = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    norms = 2 * (4 + 2 * number) * shape.hidden
    head_norms = shape.head_norms * (4 + number) * (queries + keys)
    attention = number * (2 * queries + 2 * keys) + 4 * shape.heads
    return norms + head_norms + attention + 4 * number * shape.intermediate


def working(shape: Shape, number: int) -> int:
    """Bytes of a token that come and go within one layer: three tensors of the feed-forward layer's width, two of float32 hidden states."""
    return 3 * number * shape.intermediate + 2 * 4 * shape.hidden


def kept(shape: Shape, number: int, *, checkpointing: bool) -> int:
    """Bytes that all layers keep of a token between the passes; with checkpointing only each layer's input, and one layer's whole."""
    last_norm = (4 + number) * shape.hidden  # what it scales is kept as the log-probs' rows
    if checkpointing:
        return shape.layers * number * shape.hidden + layer_kept(shape, number) + last_norm
    return shape.layers * layer_kept(shape, number) + last_norm


def learning(shape: Shape, tokens: int, number: int, *, checkpointing: bool) -> int:
    """Bytes of the forward and backward pass of a micro-batch, beside weights and gradients."""
    return tokens * (kept(shape, number, checkpointing=checkpointing) + working(shape, number))


def scoring(shape: Shape, tokens: int, number: int) -> int:
    """Bytes of a forward pass without gradients: one layer's at a time."""
    return tokens * (working(shape, number) + 3 * number * shape.hidden)


def logprobs(shape: Shape, tokens: int, number: int, device: str, *, learns: bool) -> int:
    """Bytes of the chunked log-probs of that many response tokens: blocks of logits to work in, those kept, gradients of the rest."""
    logits = shape.vocabulary * tokens
    block = min(CHUNK_LOGITS[device], logits)
    blocks = 3 * LOGIT * block + (number * block if number != LOGIT else 0)
    rows = number * shape.hidden * tokens
    if not learns:
        return blocks + rows
    waiting = min(KEPT_LOGITS[device], logits)
    return blocks + rows + LOGIT * waiting + LOGIT * shape.hidden * tokens + number * shape.embedding
