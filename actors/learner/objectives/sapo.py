"""Soft Adaptive Policy Optimization, arXiv 2511.20347."""

from __future__ import annotations

import torch
from torch.nn.functional import logsigmoid

from actors.learner.objective_config import SapoConfig
from actors.learner.objectives.ratios import log_ratios, objective_metrics, response_means, token_weights
from actors.learner.objectives.terms import BatchTotals, ObjectiveResult, PolicyTerms


def sapo(config: SapoConfig, terms: PolicyTerms, totals: BatchTotals) -> ObjectiveResult:
    """J = 1/B sum_i 1/|o_i| sum_t w_it (4/tau) sigmoid(tau (r_it - 1)) A_i, with tau = tau_positive if A > 0, else tau_negative.

    At r = 1 the gradient is GRPO's; away from it the token fades out instead of being clipped, so `clip_fraction` is 0.
    `sequence_ratio` is the mean of (4/tau) sigmoid, 2/tau at r = 1. A = 0 and an empty response contribute 0 and stay in B.
    """
    tau = torch.full_like(terms.advantages, config.tau_negative).masked_fill(terms.advantages > 0, config.tau_positive)[:, None]
    ratios = log_ratios(terms).exp()
    # The exponential of logsigmoid: the derivative of sigmoid itself loses its digits where it saturates.
    gate = 4 / tau * logsigmoid(tau * (ratios - 1)).exp()
    weights = response_means(token_weights(terms) * gate, terms)
    loss = -(terms.advantages * weights).sum() / max(1, totals.sequences)
    return ObjectiveResult(loss, objective_metrics(terms, weights, torch.zeros_like(terms.mask), totals.tokens))
