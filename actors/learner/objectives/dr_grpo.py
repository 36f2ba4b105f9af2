"""Dr. GRPO, arXiv 2503.20783: GRPO without the length bias."""

from __future__ import annotations

from actors.learner.objective_config import DrGrpoConfig
from actors.learner.objectives.ratios import clipped_ratios, objective_metrics, response_means, token_weights
from actors.learner.objectives.terms import BatchTotals, ObjectiveResult, PolicyTerms


def dr_grpo(config: DrGrpoConfig, terms: PolicyTerms, totals: BatchTotals) -> ObjectiveResult:
    """J = 1/B sum_i 1/L sum_t w_it min(r A_i, clip(r, 1 - clip_low, 1 + clip_high) A_i), with L = max_length for every response.

    A token weighs the same in a short response as in a long one. The paper's advantage, without the division by the group's standard
    deviation, is a setting of its own. A = 0 and an empty response contribute 0 and stay in B.
    """
    surrogate, clipped = clipped_ratios(terms, *config.ratio_bounds)
    weights = token_weights(terms) * surrogate
    loss = -(terms.advantages * weights.sum(-1)).sum() / (config.max_length * max(1, totals.sequences))
    return ObjectiveResult(loss, objective_metrics(terms, response_means(weights, terms), clipped, totals.tokens))
