"""Rollout correction: weights for the gap between the engine that sampled and the learner that recomputed the same tokens.

The two hold the same policy in different kernels and precisions, so pi_engine (behaviour) and pi_learner (recomputed before the first
update) differ a little on most tokens and a lot on a few. Every rule is a function of x = log pi_learner - log pi_engine, cut to
+-20. What the weights mean to each objective is stated in `actors.learner.objectives.terms`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from actors.learner.config import CorrectionConfig, GeometricMaskCorrection, IcePopCorrection, NoCorrection, TisCorrection

LOG_RATIO_LIMIT = 20.0
"""Log-ratios of learner to engine are cut to +-20: e^20 keeps sums finite in float32 and is beyond any bound that makes sense."""


def weights(
    config: CorrectionConfig, learner_logprobs: torch.Tensor, engine_logprobs: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor | None:
    """[N, T] constant weights, 0 where `mask` [N, T] is False; None if nothing is corrected. 0 under the mask means rejected."""
    rule = _RULES[type(config)]
    if rule is None:
        return None
    gap = (learner_logprobs - engine_logprobs).detach().masked_fill(~mask, 0.0).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    return rule(config, gap, mask).masked_fill(~mask, 0.0)


def _tis(config: TisCorrection, gap: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """min(e^x, cap) per token: truncated importance sampling (F. Yao et al. 2025, fengyao.notion.site/off-policy-rl)."""
    return gap.exp().clamp(max=config.cap)


def _icepop(config: IcePopCorrection, gap: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """e^x per token if low <= e^x <= high, else 0 (IcePop, arXiv 2510.18855)."""
    ratios = gap.exp()
    return ratios.masked_fill((ratios < config.low) | (ratios > config.high), 0.0)


def _geometric_mask(config: GeometricMaskCorrection, gap: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """1 on all tokens of a response if low <= exp(mean_t x) <= high, else 0 on all: rejection by the geometric mean ratio, which does
    not grow with the length (J. Liu, Y. Li et al. 2025, When Speed Kills Stability)."""
    ratios = (gap.sum(-1, keepdim=True) / mask.sum(-1, keepdim=True).clamp(min=1)).exp()
    rejected = (ratios < config.low) | (ratios > config.high)
    return torch.ones_like(gap).masked_fill(rejected, 0.0)


_RULES: dict[type, Callable[[Any, torch.Tensor, torch.Tensor], torch.Tensor] | None] = {
    NoCorrection: None,
    TisCorrection: _tis,
    IcePopCorrection: _icepop,
    GeometricMaskCorrection: _geometric_mask,
}
