"""Geometric-Mean Policy Optimization, arXiv 2507.20673, equation 4 and its ablations (table 4)."""

from __future__ import annotations

import torch

from actors.learner.objective_config import GmpoConfig
from actors.learner.objectives.terms import BatchTotals, ObjectiveResult, PolicyTerms, masked_max, masked_min

LOG_RATIO_LIMIT = 30.0
"""Unclipped log-ratios (and, without length normalisation, their sums) are cut to +-30, so that exp stays finite in float32."""


class Gmpo:
    """J = 1/B sum_i A_i exp(1/|o_i| sum_t d~_it), with d the token's log-ratio and

        d~ = min(d, clip_high)  if A > 0        d~ = max(d, -clip_low)  if A < 0.

    The clip is one-sided, in raw log space and before the mean: a clipped token adds no direction of its own, its bound stays in
    the response's weight, and |o_i| stays the full length. A = 0 gives no gradient; an empty response counts as a ratio of 1 with
    no gradient, and stays in B.
    """

    def __init__(self, config: GmpoConfig) -> None:
        self._config = config

    def __call__(self, terms: PolicyTerms, totals: BatchTotals) -> ObjectiveResult:
        """This piece's share of -J."""
        config = self._config
        raw = (terms.logprobs - terms.old_logprobs).masked_fill(~terms.mask, 0.0)
        log_ratio = raw.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
        positive = terms.advantages > 0
        if config.clip == "token":
            log_ratio = self._clip(log_ratio, positive[:, None])
        summed = log_ratio.sum(-1)
        if config.clip == "sequence":
            summed = self._clip(summed, positive)
        lengths = terms.mask.sum(-1).clamp(min=1)
        exponent = summed / lengths if config.length_normalized else summed.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
        ratio = exponent.exp()
        loss = -(terms.advantages * ratio).sum() / max(1, totals.sequences)
        return ObjectiveResult(loss, self._metrics(raw, ratio, terms, totals))

    def _clip(self, values: torch.Tensor, positive: torch.Tensor) -> torch.Tensor:
        return torch.where(positive, values.clamp(max=self._config.clip_high), values.clamp(min=-self._config.clip_low))

    def _metrics(self, raw: torch.Tensor, ratio: torch.Tensor, terms: PolicyTerms, totals: BatchTotals) -> dict[str, torch.Tensor]:
        advantages = terms.advantages[:, None]
        values, mask, count = raw.detach(), terms.mask, max(1, totals.tokens)
        if self._config.clip == "sequence":
            values, mask, count = values.sum(-1, keepdim=True), mask.any(-1, keepdim=True), max(1, totals.sequences)
        binds = ((values > self._config.clip_high) & (advantages > 0)) | ((values < -self._config.clip_low) & (advantages < 0))
        answered = terms.mask.any(-1)
        clipped = (binds & mask).sum() if self._config.clip != "none" else torch.zeros((), device=raw.device)
        return {
            "clip_fraction": clipped / count,
            "log_ratio_min": masked_min(raw, terms.mask),
            "log_ratio_max": masked_max(raw, terms.mask),
            "sequence_ratio": ratio.detach()[answered].sum(),
            "answered": answered.sum(),
        }
