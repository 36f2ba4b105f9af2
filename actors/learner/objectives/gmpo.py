"""Geometric-Mean Policy Optimization, arXiv 2507.20673, equation 4 and its ablations (table 4)."""

from __future__ import annotations

import torch

from actors.learner.objective_config import GmpoConfig
from actors.learner.objectives.ratios import LOG_RATIO_LIMIT, binds, lengths, log_ratios, objective_metrics, one_sided, response_weights
from actors.learner.objectives.terms import BatchTotals, ObjectiveResult, PolicyTerms


def gmpo(config: GmpoConfig, terms: PolicyTerms, totals: BatchTotals) -> ObjectiveResult:
    """J = 1/B sum_i A_i g_i exp(1/|o_i| sum_t d~_it), with d the token's log-ratio and

        d~ = min(d, clip_high)  if A > 0        d~ = max(d, -clip_low)  if A < 0.

    The clip is in raw log space and before the mean: a clipped token adds no direction of its own, its bound stays in the response's
    weight, and |o_i| stays the full length. With clip = sequence the sum of d is clipped, before its division by |o_i|; without
    length normalisation the sum itself, cut to +-LOG_RATIO_LIMIT, is the exponent. g is the geometric mean of the correction's
    weights. A = 0 and an empty response contribute 0 and stay in B.
    """
    values, bounds = log_ratios(terms), (-config.clip_low, config.clip_high)
    clipped, out_of = torch.zeros_like(terms.mask), totals.tokens
    if config.clip == "token":
        clipped = binds(values, terms.advantages[:, None], *bounds)
        values = one_sided(values, terms.advantages[:, None], *bounds)
    total = values.sum(-1)
    if config.clip == "sequence":
        clipped, out_of = binds(total, terms.advantages, *bounds), totals.sequences
        total = one_sided(total, terms.advantages, *bounds)
    exponent = total / lengths(terms) if config.length_normalized else total.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    weights = exponent.exp() * response_weights(terms)
    loss = -(terms.advantages * weights).sum() / max(1, totals.sequences)
    return ObjectiveResult(loss, objective_metrics(terms, weights, clipped, out_of))
