"""CISPO, arXiv 2506.13585, with the bounds of ScaleRL, arXiv 2510.13786, as defaults."""

from __future__ import annotations

from actors.learner.objective_config import CispoConfig
from actors.learner.objectives.ratios import kept, log_ratios, objective_metrics, response_means, token_weights
from actors.learner.objectives.terms import BatchTotals, ObjectiveResult, PolicyTerms


def cispo(config: CispoConfig, terms: PolicyTerms, totals: BatchTotals) -> ObjectiveResult:
    """J = 1/K sum_i sum_t sg[w_it clip(r_it, 1 - clip_low, 1 + clip_high)] A_i log pi_it, with K the tokens of the whole update.

    The weight is a constant (sg), so no token ever loses its gradient, be it clipped or beyond the clamp of log-ratios. The clip does
    not ask for the sign of A: it binds, and counts, on both sides wherever A is not 0. The weight, not log pi, is what
    `sequence_ratio` is the mean of. A = 0 contributes 0 and its tokens stay in K; an empty response is not seen at all.
    """
    floor, ceiling = config.ratio_bounds
    ratios = log_ratios(terms).detach().exp()
    weights = token_weights(terms) * ratios.clamp(floor, ceiling)
    logprobs = terms.logprobs.masked_fill(~kept(terms), 0.0)
    loss = -(terms.advantages * (weights * logprobs).sum(-1)).sum() / max(1, totals.tokens)
    clipped = ((ratios > ceiling) | (ratios < floor)) & (terms.advantages != 0)[:, None]
    return ObjectiveResult(loss, objective_metrics(terms, response_means(weights, terms), clipped, totals.tokens))
