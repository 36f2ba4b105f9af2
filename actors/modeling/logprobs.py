"""Log-probs and entropies of tokens, chunk by chunk: [tokens x vocabulary] never exists as a whole, forward or backward."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.utils.checkpoint import checkpoint

CHUNK_LOGITS = 2**24
"""Logits alive at once: 64 MiB in float32."""


class TokenScores(NamedTuple):
    """What the policy says of given tokens: log-probs (differentiable) and the entropy of the distribution each was drawn from, in nats."""

    logprobs: torch.Tensor  # [...] like the targets
    entropy: torch.Tensor  # [...] like the targets


def score_tokens(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, *, temperature: float = 1.0) -> TokenScores:
    """Score `targets` under softmax(hidden @ weight.T / temperature).

    hidden: [M, H] of the positions that predict; weight: [V, H], the output layer; targets: [M] int64. Returns [M] float32 each.
    Chunks are recomputed in the backward pass, so the memory is one chunk's logits plus the inputs.
    """
    rows = max(1, CHUNK_LOGITS // weight.shape[0])
    grad = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    pieces = []
    for start in range(0, hidden.shape[0], rows):
        chunk = hidden[start : start + rows], weight, targets[start : start + rows], temperature
        pieces.append(checkpoint(_score_chunk, *chunk, use_reentrant=False) if grad else _score_chunk(*chunk))
    if not pieces:
        # Nothing to score, but the backward pass must still reach every parameter: sharded ranks wait for each other there.
        nothing = (hidden @ weight[:1].T).squeeze(-1).float()
        return TokenScores(nothing, nothing.detach())
    return TokenScores(*(torch.cat(columns) for columns in zip(*pieces, strict=True)))


def _score_chunk(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    logits = (hidden @ weight.T).float() / temperature
    normalizer = torch.logsumexp(logits, dim=-1)
    logprobs = logits.gather(-1, targets[:, None]).squeeze(-1) - normalizer
    with torch.no_grad():
        entropy = normalizer - (torch.softmax(logits, dim=-1) * logits).sum(-1)
    return logprobs, entropy
