"""What the objectives share: masked log-ratios, the one-sided clip, correction weights, and the figures they report.

The rules these keep (mask, clamp, ties, rejected tokens) are stated once, in `terms`.
"""

from __future__ import annotations

import torch

from actors.learner.objectives.terms import PolicyTerms

LOG_RATIO_LIMIT = 30.0
"""Log-ratios of tokens, and sums of them that are not divided by a length, are cut to +-30, so that exp stays finite in float32."""


def kept(terms: PolicyTerms) -> torch.Tensor:
    """[N, T] bool: sampled tokens that the correction did not reject (w != 0, so that a NaN is not passed over)."""
    return terms.mask if terms.correction is None else terms.mask & (terms.correction != 0)


def lengths(terms: PolicyTerms) -> torch.Tensor:
    """[N] |o|; 1 for an empty response, to divide by."""
    return terms.mask.sum(-1).clamp(min=1)


def log_ratios(terms: PolicyTerms) -> torch.Tensor:
    """[N, T] d = log pi - log pi_old, cut to +-LOG_RATIO_LIMIT; 0 without gradient on tokens that are not kept."""
    raw = (terms.logprobs - terms.old_logprobs).masked_fill(~kept(terms), 0.0)
    return raw.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)


def one_sided(values: torch.Tensor, advantages: torch.Tensor, floor: float, ceiling: float) -> torch.Tensor:
    """min(values, ceiling) where A > 0, max(values, floor) elsewhere. `advantages` broadcasts against `values`."""
    return torch.where(advantages > 0, values.clamp(max=ceiling), values.clamp(min=floor))


def binds(values: torch.Tensor, advantages: torch.Tensor, floor: float, ceiling: float) -> torch.Tensor:
    """bool, where `one_sided` changes a value and with it the loss."""
    return ((values > ceiling) & (advantages > 0)) | ((values < floor) & (advantages < 0))


def clipped_ratios(terms: PolicyTerms, floor: float, ceiling: float) -> tuple[torch.Tensor, torch.Tensor]:
    """[N, T] min(r A, clip(r, floor, ceiling) A) / A with r = e^d, and [N, T] bool where the clip binds. Floor <= 1 <= ceiling."""
    ratios, advantages = log_ratios(terms).exp(), terms.advantages[:, None]
    return one_sided(ratios, advantages, floor, ceiling), binds(ratios, advantages, floor, ceiling)


def token_weights(terms: PolicyTerms) -> torch.Tensor:
    """[N, T] w (1 without a correction); 0 outside the mask."""
    if terms.correction is None:
        return terms.mask.to(terms.logprobs.dtype)
    return terms.correction.detach().to(terms.logprobs.dtype).masked_fill(~terms.mask, 0.0)


def log_weights(terms: PolicyTerms) -> torch.Tensor:
    """[N, T] log w; 0 on tokens that are not kept."""
    if terms.correction is None:
        return torch.zeros_like(terms.logprobs)
    return terms.correction.detach().to(terms.logprobs.dtype).masked_fill(~kept(terms), 1.0).log()


def response_weights(terms: PolicyTerms) -> torch.Tensor:
    """[N] geometric mean of w over |o|, rejected tokens counting as 1; 0 for a response without a kept token."""
    alive = kept(terms).any(-1).to(terms.logprobs.dtype)
    return alive if terms.correction is None else alive * response_means(log_weights(terms), terms).exp()


def response_means(values: torch.Tensor, terms: PolicyTerms) -> torch.Tensor:
    """[N] mean over |o| of values [N, T] that are 0 outside the mask; 0 for an empty response."""
    return values.sum(-1) / lengths(terms)


def objective_metrics(terms: PolicyTerms, weights: torch.Tensor, clipped: torch.Tensor, out_of: int) -> dict[str, torch.Tensor]:
    """An objective's metrics from what multiplies A in each response (weights [N], 0 of nothing) and what its clip changed."""
    return {
        "clip_fraction": clipped.sum() / max(1, out_of),
        "sequence_ratio": weights.detach().sum(),
        "answered": terms.mask.any(-1).sum(),
    }
