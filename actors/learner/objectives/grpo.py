"""Group Relative Policy Optimization, arXiv 2402.03300, without its KL term (which is added apart, for every objective alike)."""

from __future__ import annotations

from actors.learner.objective_config import GrpoConfig
from actors.learner.objectives.ratios import clipped_ratios, objective_metrics, response_means, token_weights
from actors.learner.objectives.terms import BatchTotals, ObjectiveResult, PolicyTerms


def grpo(config: GrpoConfig, terms: PolicyTerms, totals: BatchTotals) -> ObjectiveResult:
    """J = 1/B sum_i 1/|o_i| sum_t w_it min(r A_i, clip(r, floor, ceiling) A_i), with r the token's ratio.

    [floor, ceiling] is [1 - clip_low, 1 + clip_high], or [e^-clip_low, e^clip_high] with log bounds. A = 0 and an empty response
    contribute 0 and stay in B.
    """
    surrogate, clipped = clipped_ratios(terms, *config.ratio_bounds)
    weights = response_means(token_weights(terms) * surrogate, terms)
    loss = -(terms.advantages * weights).sum() / max(1, totals.sequences)
    return ObjectiveResult(loss, objective_metrics(terms, weights, clipped, totals.tokens))
