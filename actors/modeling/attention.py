"""Causal attention over sequences that lie end to end, none of which sees another.

A GPU in half precision has a kernel for it, given where the sequences begin. Elsewhere the sequences are laid side by side in buckets of
similar length, padded on the right: a causal query never looks at what comes after it, so padding needs no mask and changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention

from actors.errors import ModelError

NAME = "gmpo_packed"
"""What transformers knows this attention by."""
SPARE_PAIRS = 2**14
"""Query-key pairs that padding may waste in a bucket: a further call of the kernel costs about as much."""
LAYERS = frozenset({"full_attention", "sliding_attention"})
"""Layer types that packing allows: others (recurrent, convolutional) would leak across the ends of sequences."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the sequences lie: found once a batch, used by every layer. L tokens, N sequences."""

    offsets: torch.Tensor  # [N + 1] int32, where each sequence begins, and the end
    longest: int  # tokens
    buckets: tuple[tuple[int, int], ...]  # (sequences, length) of each bucket, side by side
    places: torch.Tensor | None  # [L] int64, where each token stands in the buckets; None if they are the sequences as they lie


def lay_out(lengths: Sequence[int], device: torch.device) -> Layout:
    """The layout of sequences of these lengths (each >= 1, at least one)."""
    sizes = np.asarray(lengths, dtype=np.int64)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    order = np.argsort(-sizes, kind="stable")
    buckets = _buckets(sizes[order].tolist())
    padded = np.repeat([length for _, length in buckets], [count for count, _ in buckets])
    starts = np.empty_like(sizes)
    starts[order] = np.cumsum(padded) - padded
    places = None
    if (starts != offsets[:-1]).any() or padded.sum() != offsets[-1]:
        places = torch.from_numpy(np.repeat(starts - offsets[:-1], sizes) + np.arange(offsets[-1])).to(device)
    return Layout(torch.from_numpy(offsets.astype(np.int32)).to(device), int(sizes.max()), buckets, places)


def _buckets(lengths: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """(sequences, longest) of each bucket, from lengths in descending order."""
    buckets: list[tuple[int, int]] = []
    count, longest, spare = 0, lengths[0], SPARE_PAIRS
    for length in lengths:
        spare -= longest**2 - length**2
        if spare < 0:
            buckets.append((count, longest))
            count, longest, spare = 0, length, SPARE_PAIRS
        count += 1
    return (*buckets, (count, longest))


def use_packed_attention(model: Any) -> None:
    """Make a transformers causal language model attend by `attend`: its decoder must then be called with `sequences`, a Layout.

    No mask is built for an attention that transformers has no mask function for. ModelError: its layers cannot be run like this.
    """
    from transformers import AttentionInterface

    decoder = model.get_decoder()
    others = set(getattr(decoder.config, "layer_types", None) or ()) - LAYERS
    if others or decoder._is_stateful:
        raise ModelError(
            f"policy: {type(model).__name__} mixes tokens by {', '.join(sorted(others)) or 'a state'}, which no packing allows"
        )
    if getattr(decoder.config, "attn_logit_softcapping", None) or any(name.endswith("sinks") for name, _ in decoder.named_parameters()):
        raise ModelError(f"policy: {type(model).__name__} caps its attention scores or has sinks, which is not supported")
    # A compiler would make another kernel for every layout it met.
    AttentionInterface.register(NAME, torch.compiler.disable(attend))
    decoder.set_attn_implementation(NAME)
    if decoder.config._attn_implementation != NAME:
        raise ModelError(f"policy: the attention of {type(model).__name__} cannot be exchanged, so sequences cannot be packed")


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    sequences: Layout | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """An attention function of transformers: query [1, heads, L, D], key and value [1, fewer heads, L, D]; returns [1, L, heads, D].

    Dropout is left out: the policy that is trained is the one that answers. ModelError: a kind of attention that this is not.
    """
    if sequences is None or attention_mask is not None:
        raise ModelError("policy: packed attention takes the sequences' layout and no mask; call the model through its Scorer")
    if softcap is not None or s_aux is not None:
        raise ModelError("policy: attention with capped scores or sinks is not supported")
    if sliding_window is not None and sequences.longest > sliding_window:
        raise ModelError(f"policy: a sequence of {sequences.longest} tokens is longer than the model's sliding window of {sliding_window}")
    queries, keys, values = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    if query.is_cuda and query.dtype in (torch.float16, torch.bfloat16):
        return _varlen(queries, keys, values, sequences, scaling)[None], None
    return _in_buckets(queries, keys, values, sequences, scaling)[None], None


def _varlen(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: Layout, scaling: float | None) -> torch.Tensor:
    """[L, heads, D] each, by the GPU's kernel for sequences end to end."""
    from torch.nn.attention.varlen import varlen_attn

    ends, longest = layout.offsets, layout.longest
    attended = varlen_attn(query, key, value, ends, ends, longest, longest, scale=scaling, window_size=(-1, 0), enable_gqa=True)
    assert isinstance(attended, torch.Tensor)  # and not a pair with what was not asked for
    return attended


def _in_buckets(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: Layout, scaling: float | None) -> torch.Tensor:
    """[L, heads, D] each, a call per bucket."""
    sizes = [count * length for count, length in layout.buckets]
    streams = [query, key, value]
    if layout.places is not None:
        streams = [stream.new_zeros(sum(sizes), *stream.shape[1:]).index_copy(0, layout.places, stream) for stream in streams]
    attended = []
    for bucket, *parts in zip(layout.buckets, *(stream.split(sizes) for stream in streams), strict=True):
        queries, keys, values = (part.unflatten(0, bucket).transpose(1, 2) for part in parts)
        rows = scaled_dot_product_attention(queries, keys, values, is_causal=True, scale=scaling, enable_gqa=True)
        attended.append(rows.transpose(1, 2).flatten(0, 1))
    stream = torch.cat(attended)
    return stream if layout.places is None else stream.index_select(0, layout.places)
