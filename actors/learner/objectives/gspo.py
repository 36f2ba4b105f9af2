"""Group Sequence Policy Optimization, arXiv 2507.18071, equation 5."""

from __future__ import annotations

from actors.learner.objective_config import GspoConfig
from actors.learner.objectives.ratios import binds, log_ratios, objective_metrics, one_sided, response_means, response_weights
from actors.learner.objectives.terms import BatchTotals, ObjectiveResult, PolicyTerms


def gspo(config: GspoConfig, terms: PolicyTerms, totals: BatchTotals) -> ObjectiveResult:
    """J = 1/B sum_i g_i min(s_i A_i, clip(s_i, 1 - clip_low, 1 + clip_high) A_i), with s_i = exp(1/|o_i| sum_t d_it).

    s is GMPO's ratio without its clip; here the clip is on the mean, so it takes the gradient of a response whole, and
    `clip_fraction` is a share of responses. g is the geometric mean of the correction's weights, outside the clip. A = 0 and an
    empty response contribute 0 and stay in B.
    """
    ratios = response_means(log_ratios(terms), terms).exp()
    weights = one_sided(ratios, terms.advantages, *config.ratio_bounds) * response_weights(terms)
    loss = -(terms.advantages * weights).sum() / max(1, totals.sequences)
    return ObjectiveResult(loss, objective_metrics(terms, weights, binds(ratios, terms.advantages, *config.ratio_bounds), totals.sequences))
