"""What an objective is given and what it returns, and the rules that all objectives keep.

N rows (one response each, never split), T the longest response, |o| a response's tokens under the mask. `BatchTotals` counts the
whole update over all ranks and micro-batches, so a piece's loss is its share: summed over pieces and ranks it is the loss of the
batch, however it was cut, ordered or padded.

- **Mask.** What stands where `mask` is False is never read: it may be NaN or infinite, and its gradient is 0.
- **Clamp.** A token's log-ratio d = logprobs - old_logprobs is cut to +-30 (`ratios.LOG_RATIO_LIMIT`) before anything else, and so
  is a sum of them that is to be exponentiated without a division by the length. Beyond the cut there is no gradient.
- **Clip.** One-sided by the sign of A: min(d, high) for A > 0, max(d, -low) for A < 0, which is PPO's min of two surrogates. A clipped
  token has no gradient of its own. A clip binds strictly beyond its bound: exactly at it the gradient passes and nothing is counted.
- **A = 0.** The response contributes 0 to loss and gradient and stays in the totals. (Where a side must be taken it is that of A < 0.)
- **Empty response.** It contributes 0 and stays in the totals.
- **Correction.** w [N, T] are constants that weigh tokens for the gap between the engine's policy and the learner's
  (`actors.learner.correction`). The clip never sees them, and w = c throughout multiplies the loss by c. An objective over tokens
  multiplies each token's surrogate by w. One that weighs a whole response takes w into its mean over |o|: gmpo and pmpo average
  d~ + log w in place of the clipped d~, so that GMPO's weight is geomean(r~) x geomean(w); gspo, and gmpo where it clips or takes the
  sum, multiply by geomean(w) outside. In those three a token with w = 0 was rejected: it counts in |o| as a ratio and a weight of 1,
  without gradient, and a response whose tokens were all rejected contributes 0. (To read w = 0 as log 1e-10, as verl's geo_mean does,
  multiplies a response by 10^(-10 q) where the share q was rejected: one token of two leaves 1e-5 of it.)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import torch

from actors.types import BatchTotals

__all__ = ["BatchTotals", "Objective", "ObjectiveResult", "PolicyTerms"]


class PolicyTerms(NamedTuple):
    """One micro-batch as an objective sees it. Results have the dtype of `logprobs`; nothing is computed in a narrower one."""

    logprobs: torch.Tensor  # [N, T] under the policy being trained, differentiable
    old_logprobs: torch.Tensor  # [N, T] the ratio's denominator
    advantages: torch.Tensor  # [N]
    mask: torch.Tensor  # [N, T] bool, True on tokens the policy sampled
    correction: torch.Tensor | None = None  # [N, T] rollout-correction weights, >= 0
    ref_logprobs: torch.Tensor | None = None  # [N, T] under the frozen starting policy
    entropy: torch.Tensor | None = None  # [N, T] nats


class ObjectiveResult(NamedTuple):
    """`loss` is this piece's share, to be minimised. Metrics add up over pieces:

    clip_fraction   tokens (with a clip of whole responses: responses) whose clip changes the loss, as a share of the update's
    sequence_ratio  sum over answered responses of the mean of what multiplies A: after the clip, with the correction
    answered        responses of this piece that have a token

    Rows that pad a micro-batch, or that were skipped as having no advantage, say nothing about the policy's ratio: a mean of
    `sequence_ratio` divides by `answered`.
    """

    loss: torch.Tensor  # []
    metrics: Mapping[str, torch.Tensor]


class Objective(Protocol):
    """A policy objective."""

    def __call__(self, terms: PolicyTerms, totals: BatchTotals) -> ObjectiveResult:
        """This piece's share of the loss."""
        ...
