"""What an objective is given and what it returns.

N rows (one response each, never split), T the longest response. `BatchTotals` counts the whole update over all ranks and
micro-batches, so a piece's loss is its share: summed over pieces and ranks it is the loss of the batch, however it was cut.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import torch

from actors.types import BatchTotals

__all__ = ["BatchTotals", "Objective", "ObjectiveResult", "PolicyTerms", "masked_max", "masked_min"]


class PolicyTerms(NamedTuple):
    """One micro-batch as an objective sees it."""

    logprobs: torch.Tensor  # [N, T] under the policy being trained, differentiable
    old_logprobs: torch.Tensor  # [N, T] the ratio's denominator
    advantages: torch.Tensor  # [N]
    mask: torch.Tensor  # [N, T] bool, True on tokens the policy sampled
    correction: torch.Tensor | None = None  # [N, T] rollout-correction weights
    ref_logprobs: torch.Tensor | None = None  # [N, T] under the frozen starting policy
    entropy: torch.Tensor | None = None  # [N, T] nats


class ObjectiveResult(NamedTuple):
    """`loss` is this piece's share (to be minimised). Metrics add up over pieces, except `*_min` and `*_max`.

    `clip_fraction` is a share of the update's tokens; `sequence_ratio` a sum over the `answered` responses of this piece (those with
    a token): rows that pad a micro-batch, or that were skipped as having no advantage, say nothing about the policy's ratio.
    """

    loss: torch.Tensor  # []
    metrics: Mapping[str, torch.Tensor]


class Objective(Protocol):
    """A policy objective."""

    def __call__(self, terms: PolicyTerms, totals: BatchTotals) -> ObjectiveResult:
        """This piece's share of the loss."""
        ...


def masked_min(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Smallest value under the mask; +inf of nothing."""
    return values.detach().masked_fill(~mask, float("inf")).min()


def masked_max(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Largest value under the mask; -inf of nothing."""
    return values.detach().masked_fill(~mask, float("-inf")).max()
