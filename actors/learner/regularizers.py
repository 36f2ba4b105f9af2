"""What is added to any objective's loss: the KL to the reference policy and the entropy bonus."""

from __future__ import annotations

from collections.abc import Callable

import torch

from actors.learner.config import KlConfig
from actors.learner.objectives.ratios import response_means
from actors.learner.objectives.terms import BatchTotals, PolicyTerms

LOG_RATIO_LIMIT = 20.0
"""log pi_ref - log pi is cut to +-20, so that k3 stays finite in float32; beyond it there is no gradient."""

_ESTIMATORS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "k1": lambda d: -d,
    "k2": lambda d: d.square() / 2,
    "k3": lambda d: d.expm1() - d,
}


def kl_estimate(logprobs: torch.Tensor, ref_logprobs: torch.Tensor, estimator: str) -> torch.Tensor:
    """Estimate of KL(policy || reference) at each token, in nats and in the shape of `logprobs` (J. Schulman, Approximating KL
    Divergence, 2020). With d = ref_logprobs - logprobs, cut to +-20:

        k1 = -d        k2 = d^2 / 2        k3 = e^d - 1 - d

    k1 and k3 are unbiased for tokens sampled by the policy; k2 and k3 are never negative.
    """
    return _ESTIMATORS[estimator]((ref_logprobs - logprobs).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT))


def regularizer_loss(kl: KlConfig, entropy_coefficient: float, terms: PolicyTerms, totals: BatchTotals) -> torch.Tensor:
    """This piece's share of coefficient * mean KL estimate - entropy_coefficient * mean entropy; [] to be minimised.

    Means are over a response's tokens, then over the responses of the whole update: pieces add up, an empty response contributes 0
    and stays in the totals, rollout correction and the ratio to the old policy take no part. The KL term needs `ref_logprobs` and
    place = loss, the bonus needs `entropy`; where neither applies the result is exactly 0, without a gradient.
    """
    loss = terms.logprobs.new_zeros(())
    outside = ~terms.mask
    if kl.coefficient > 0 and kl.place == "loss" and terms.ref_logprobs is not None:
        policy, reference = terms.logprobs.masked_fill(outside, 0.0), terms.ref_logprobs.masked_fill(outside, 0.0)
        loss = loss + kl.coefficient * _mean(kl_estimate(policy, reference, kl.estimator), terms, totals)
    if entropy_coefficient > 0 and terms.entropy is not None:
        loss = loss - entropy_coefficient * _mean(terms.entropy.masked_fill(outside, 0.0), terms, totals)
    return loss


def _mean(values: torch.Tensor, terms: PolicyTerms, totals: BatchTotals) -> torch.Tensor:
    """This piece's share of the mean over responses of the mean over tokens of values [N, T] that are 0 outside the mask."""
    return response_means(values, terms).sum() / max(1, totals.sequences)
