"""PPO's clipped loss, arXiv 1707.06347, with dual clip, arXiv 1912.09729; the advantage is the response's, there is no critic."""

from __future__ import annotations

from actors.learner.objective_config import PpoConfig
from actors.learner.objectives.ratios import clipped_ratios, objective_metrics, response_means, token_weights
from actors.learner.objectives.terms import BatchTotals, ObjectiveResult, PolicyTerms


def ppo(config: PpoConfig, terms: PolicyTerms, totals: BatchTotals) -> ObjectiveResult:
    """J = 1/K sum_i sum_t w_it s_it, with K the tokens of the whole update and

        s = min(r A, clip(r, 1 - clip_low, 1 + clip_high) A)        and for A < 0 at least dual_clip A: max(s, dual_clip A).

    The second bound keeps a token that became far more likely from ruling the update; beyond it the token has no gradient and counts
    as clipped. A = 0 contributes 0 and its tokens stay in K; an empty response is not seen at all.
    """
    surrogate, clipped = clipped_ratios(terms, *config.ratio_bounds)
    if config.dual_clip is not None:
        beyond = (surrogate > config.dual_clip) & (terms.advantages[:, None] < 0)
        surrogate, clipped = surrogate.masked_fill(beyond, config.dual_clip), clipped | beyond
    weights = token_weights(terms) * surrogate
    loss = -(terms.advantages * weights.sum(-1)).sum() / max(1, totals.tokens)
    return ObjectiveResult(loss, objective_metrics(terms, response_means(weights, terms), clipped, totals.tokens))
