"""The loss of DAPO, arXiv 2503.14476. Its dynamic sampling and its overlong penalty belong to the queue and to the rewards."""

from __future__ import annotations

from actors.learner.objective_config import DapoConfig
from actors.learner.objectives.ratios import clipped_ratios, objective_metrics, response_means, token_weights
from actors.learner.objectives.terms import BatchTotals, ObjectiveResult, PolicyTerms


def dapo(config: DapoConfig, terms: PolicyTerms, totals: BatchTotals) -> ObjectiveResult:
    """J = 1/K sum_i sum_t w_it min(r A_i, clip(r, 1 - clip_low, 1 + clip_high) A_i), with K the tokens of the whole update.

    A response weighs by its length. A = 0 contributes 0 and its tokens stay in K; an empty response is not seen at all.
    """
    surrogate, clipped = clipped_ratios(terms, *config.ratio_bounds)
    weights = token_weights(terms) * surrogate
    loss = -(terms.advantages * weights.sum(-1)).sum() / max(1, totals.tokens)
    return ObjectiveResult(loss, objective_metrics(terms, response_means(weights, terms), clipped, totals.tokens))
