"""The power-mean family: PMPO, arXiv 2601.22521, at a fixed exponent; its harmonic member is the HMPO of GMPO's official code."""

from __future__ import annotations

import torch

from actors.learner.objective_config import PmpoConfig
from actors.learner.objectives.ratios import binds, kept, log_ratios, log_weights, objective_metrics, one_sided, response_means
from actors.learner.objectives.terms import BatchTotals, ObjectiveResult, PolicyTerms

EXPONENT_LIMIT = 80.0
"""Cut of p (x - mean x), so that exp stays finite in float32; only correction weights some e^20 apart within a response reach it."""


def pmpo(config: PmpoConfig, terms: PolicyTerms, totals: BatchTotals) -> ObjectiveResult:
    """J = 1/B sum_i A_i (1/|o_i| sum_t (w_it r~_it)^p)^(1/p), with r~ = e^d~ clipped as in GMPO: one-sided, in log space, per token.

    p = 1 is GRPO with log bounds, p -> 0 is GMPO (and p = 0 computes it), p = -1 the harmonic mean |o| / sum_t 1 / (w r~). A token's
    share of the gradient grows with (w r~)^p. The paper chooses p for each response from its clip fraction; here p is a setting of
    the run. A = 0 and an empty response contribute 0 and stay in B.
    """
    values, advantages = log_ratios(terms), terms.advantages[:, None]
    bounds = -config.clip_low, config.clip_high
    corrected = one_sided(values, advantages, *bounds) + log_weights(terms)
    alive = kept(terms).any(-1)
    weights = _log_power_mean(corrected, config.power, terms).exp() * alive
    loss = -(terms.advantages * weights).sum() / max(1, totals.sequences)
    return ObjectiveResult(loss, objective_metrics(terms, weights, binds(values, advantages, *bounds), totals.tokens))


def _log_power_mean(values: torch.Tensor, power: float, terms: PolicyTerms) -> torch.Tensor:
    """[N] log M_p of e^values [N, T] over |o|, as m + log1p(mean(expm1(p (x - m)))) / p with m the mean of x.

    By Jensen the argument of log1p is >= 0, and nothing cancels for small p. m is a pivot: log M_p does not depend on it, so it takes
    no part in the gradient.
    """
    mean = response_means(values, terms)
    if power == 0:
        return mean
    pivot = mean.detach()
    spread = (power * (values - pivot[:, None])).masked_fill(~terms.mask, 0.0).clamp(max=EXPONENT_LIMIT)
    # The derivative of expm1 is computed as its value + 1, which has no digits left far below 0.
    excess = torch.where(spread < -1, spread.exp() - 1, spread.expm1())
    return pivot + response_means(excess, terms).log1p() / power
