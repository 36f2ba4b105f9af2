"""Group Relative Policy Optimization, arXiv 2402.03300, without its KL term (which is added apart, for every objective alike)."""

from __future__ import annotations

import torch

from actors.learner.objective_config import GrpoConfig
from actors.learner.objectives.terms import BatchTotals, ObjectiveResult, PolicyTerms, masked_max, masked_min

LOG_RATIO_LIMIT = 30.0
"""Log-ratios are cut to +-30, so that exp stays finite in float32."""


class Grpo:
    """J = 1/B sum_i 1/|o_i| sum_t min(r A_i, clip(r, 1 - clip_low, 1 + clip_high) A_i), with r the token's ratio.

    A = 0 gives no gradient; an empty response contributes 0 and stays in B.
    """

    def __init__(self, config: GrpoConfig) -> None:
        self._config = config

    def __call__(self, terms: PolicyTerms, totals: BatchTotals) -> ObjectiveResult:
        """This piece's share of -J."""
        low, high = 1 - self._config.clip_low, 1 + self._config.clip_high
        raw = (terms.logprobs - terms.old_logprobs).masked_fill(~terms.mask, 0.0)
        ratio = raw.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
        advantages = terms.advantages[:, None]
        surrogate = torch.minimum(ratio * advantages, ratio.clamp(low, high) * advantages) * terms.mask
        lengths = terms.mask.sum(-1).clamp(min=1)
        loss = -(surrogate.sum(-1) / lengths).sum() / max(1, totals.sequences)
        binds = ((ratio > high) & (advantages > 0)) | ((ratio < low) & (advantages < 0))
        means = (ratio.detach() * terms.mask).sum(-1) / lengths
        return ObjectiveResult(
            loss,
            {
                "clip_fraction": (binds & terms.mask).sum() / max(1, totals.tokens),
                "log_ratio_min": masked_min(raw, terms.mask),
                "log_ratio_max": masked_max(raw, terms.mask),
                "sequence_ratio": means.sum(),
                "answered": terms.mask.any(-1).sum(),
            },
        )
