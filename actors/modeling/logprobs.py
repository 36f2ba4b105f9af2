"""Log-probs and entropies of tokens, block by block: [tokens x vocabulary], unless small, never exists as a whole, forward or backward.

A block is a slice of the vocabulary under all tokens, not a few tokens under the whole vocabulary. The output layer, by far the largest
operand, is then read once a pass, and each part of its gradient is one matrix product: nothing is added up in its own, perhaps 16-bit,
type. What does add up over the blocks is small, [tokens x hidden], and in float32.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

CHUNK_LOGITS = {"cpu": 2**22, "cuda": 2**26}
"""Logits of a block by kind of device: 16 MiB in float32, which a CPU's cache still helps with, and 256 MiB."""
KEPT_LOGITS = {"cpu": 2**25, "cuda": 2**27}
"""Logits that wait for the backward pass, which need not compute them again: 128 MiB in float32, and 512 MiB."""


class TokenScores(NamedTuple):
    """What the policy says of given tokens: their log-probs, and the entropy of the distribution each was drawn from, in nats."""

    logprobs: torch.Tensor  # [...] like the targets
    entropy: torch.Tensor  # [...] like the targets


def score_tokens(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    *,
    temperature: float = 1.0,
    entropy_gradient: bool = False,
    chunk_logits: int | None = None,
    kept_logits: int | None = None,
) -> TokenScores:
    """Score `targets` under softmax(hidden @ weight.T / temperature).

    hidden: [M, H] of the positions that predict; weight: [V, H], the output layer, of the same type; targets: [M] int64.
    Returns [M] each, float32 or better; log-probs carry a gradient, the entropies only with `entropy_gradient`.
    `chunk_logits` and `kept_logits` stand in for CHUNK_LOGITS and KEPT_LOGITS: how many are alive in a block, and how many, of whole
    blocks, are kept between the passes.
    """
    width = max(1, (chunk_logits or CHUNK_LOGITS[hidden.device.type]) // max(1, len(hidden)))
    kept = (KEPT_LOGITS[hidden.device.type] if kept_logits is None else kept_logits) // max(1, len(hidden) * width)
    learns = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    score: Callable[..., tuple[torch.Tensor, torch.Tensor]] = _Score.apply
    return TokenScores(*score(hidden, weight, targets, temperature, entropy_gradient, width, kept if learns else 0))


class _Score(torch.autograd.Function):
    """With z the logits over temperature, p their softmax, and g, h what reaches a token's log-prob and its entropy H:

    d loss / d z_j = g (1[j = target] - p_j) - h p_j (log p_j + H)
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        targets: torch.Tensor,
        temperature: float,
        entropy_gradient: bool,
        width: int,  # of a block
        kept_blocks: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        sums = _Sums.of_nothing(hidden)
        picked = torch.zeros_like(sums.total)
        kept: list[torch.Tensor] = []
        for block, (logits, *spare) in _blocks(len(weight), width, sums.total, tensors=3):
            if len(kept) < kept_blocks:
                kept.append(logits := torch.empty_like(logits))
            _compute_logits(hidden, weight[block], temperature, out=logits)
            columns, inside = _columns(targets, block)
            picked = torch.where(inside, logits.gather(1, columns).squeeze(1), picked)
            sums = sums.joined(_Sums.of(logits, spare))
        normalizer = sums.total.log()  # less the greatest logit
        logprobs, entropy = picked - sums.top - normalizer, normalizer - sums.moment / sums.total
        ctx.save_for_backward(hidden, weight, targets, sums.top, sums.total, entropy, *kept)
        ctx.temperature, ctx.width, ctx.entropy_gradient = temperature, width, entropy_gradient
        if not entropy_gradient:
            ctx.mark_non_differentiable(entropy)
        return logprobs, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_logprobs: torch.Tensor, grad_entropy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden, weight, targets, top, total, entropy, *kept = ctx.saved_tensors
        wants_hidden, wants_weight = ctx.needs_input_grad[:2]
        grad_hidden = torch.zeros_like(hidden, dtype=top.dtype) if wants_hidden else None
        grad_weight = torch.empty_like(weight) if wants_weight else None
        blocks = _blocks(len(weight), ctx.width, total, tensors=2 if ctx.entropy_gradient else 1)
        for (block, (grad, *spare)), logits in itertools.zip_longest(blocks, kept):
            if logits is None:
                logits = _compute_logits(hidden, weight[block], ctx.temperature, out=grad)
            torch.sub(logits, top[:, None], out=grad).exp_()  # probabilities times total
            if ctx.entropy_gradient:
                surprise = torch.special.entr(grad.div_(total[:, None]), out=spare[0])  # -p log p, and 0 where p is
                grad.mul_(-(grad_logprobs + grad_entropy * entropy)[:, None]).add_(surprise.mul_(grad_entropy[:, None]))
            else:
                grad.mul_((-grad_logprobs / total)[:, None])
            columns, inside = _columns(targets, block)
            grad.scatter_add_(1, columns, torch.where(inside, grad_logprobs, 0)[:, None])
            of_logits = (grad.div_(ctx.temperature) if ctx.temperature != 1 else grad).to(weight.dtype)
            if grad_hidden is not None:
                grad_hidden += of_logits @ weight[block]
            if grad_weight is not None:
                torch.mm(of_logits.T, hidden, out=grad_weight[block])
        return grad_hidden.to(hidden.dtype) if grad_hidden is not None else None, grad_weight, None, None, None, None, None


class _Sums(NamedTuple):
    """Of each row of some logits z, [M] each. As sums, and not as logarithms, they hardly lose precision over hundreds of blocks."""

    top: torch.Tensor  # the greatest z
    total: torch.Tensor  # sum of exp(z - top)
    moment: torch.Tensor  # sum of (z - top) exp(z - top)

    @classmethod
    def of_nothing(cls, hidden: torch.Tensor) -> _Sums:
        """Over no columns, for rows of hidden states. The top is as low as a number goes: an infinite one would come out as no number."""
        nothing = hidden.new_zeros(len(hidden), dtype=torch.promote_types(hidden.dtype, torch.float32))
        return cls(nothing + torch.finfo(nothing.dtype).min, nothing, nothing)

    @classmethod
    def of(cls, logits: torch.Tensor, spare: Sequence[torch.Tensor]) -> _Sums:
        """Over the columns of [M, width], with two spare tensors of that shape to work in."""
        top = logits.amax(-1)
        shifted = torch.sub(logits, top[:, None], out=spare[0])
        powers = torch.exp(shifted, out=spare[1])
        return cls(top, powers.sum(-1), shifted.mul_(powers).sum(-1))

    def joined(self, other: _Sums) -> _Sums:
        """Over the columns of both."""
        top = torch.maximum(self.top, other.top)
        totals, moments = zip(*(part._below(top) for part in (self, other)), strict=True)
        return _Sums(top, sum(totals), sum(moments))

    def _below(self, top: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        shift = self.top - top
        factor = shift.exp()
        return self.total * factor, (self.moment + self.total * shift) * factor


def _blocks(vocabulary: int, width: int, rows: torch.Tensor, *, tensors: int) -> Iterator[tuple[slice, list[torch.Tensor]]]:
    """The vocabulary in slices of `width`, each with tensors of [len(rows), slice] to work in.

    Their memory is the same for every slice: a CPU's allocator would fetch it from the system, and give it back, each time.
    """
    memory = [rows.new_empty(len(rows) * min(width, vocabulary)) for _ in range(tensors)]
    for start in range(0, vocabulary, width):
        shape = len(rows), min(width, vocabulary - start)
        yield slice(start, start + shape[1]), [part[: shape[0] * shape[1]].view(shape) for part in memory]


def _compute_logits(hidden: torch.Tensor, weight: torch.Tensor, temperature: float, *, out: torch.Tensor) -> torch.Tensor:
    """hidden @ weight.T / temperature. Engines too multiply in the weights' type and divide in float32."""
    if out.dtype == hidden.dtype:
        torch.mm(hidden, weight.T, out=out)
    else:
        out.copy_(hidden @ weight.T)
    return out.div_(temperature) if temperature != 1 else out


def _columns(targets: torch.Tensor, block: slice) -> tuple[torch.Tensor, torch.Tensor]:
    """([M, 1] column of each target within the block, [M] whether it lies there; elsewhere the column is any)."""
    columns, last = targets - block.start, block.stop - block.start - 1
    return columns.clamp(0, last)[:, None], (columns >= 0) & (columns <= last)
