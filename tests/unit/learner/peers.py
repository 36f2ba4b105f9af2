"""GMPO as three other code bases compute it, written anew from what they do: for tests that compare, and show where each goes wrong.

- official: github.com/callsys/GMPO, train_zero_math_gmpo.py
- verl: verl/trainer/ppo/core_algos.py, policy loss `geo_mean`
- TRL: trl.experimental.gmpo

Each returns the loss of one micro-batch; how micro-batches become an update is said beside it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from actors.learner.objectives import PolicyTerms


def official(terms: PolicyTerms, low: float, high: float, *, clip: str = "token", length_normalized: bool = True) -> Tensor:
    """A micro-batch of exactly one response; an update is the mean over its responses.

    Works on signed log-ratios, so that low and high bound s d and not d: they change places where A < 0.
    """
    [advantage], [mask] = terms.advantages, terms.mask
    sign = 1 if advantage >= 0 else -1
    difference = (terms.logprobs - terms.old_logprobs)[0][mask]
    if clip == "sequence":
        difference = difference.sum()
    signed = sign * difference
    if clip != "none":
        signed = torch.minimum(signed, signed.clamp(-low, high))
    total = (sign * signed).sum()
    loss: Tensor = -advantage * (total / mask.sum() if length_normalized else total).exp()
    return loss


def verl(terms: PolicyTerms, low: float, high: float) -> Tensor:
    """A mean over the micro-batch's responses. An update adds its micro-batches up without dividing by their number."""
    count = terms.mask.sum(-1) + 1e-8
    sign = terms.advantages.sign()[:, None]
    difference = terms.logprobs - terms.old_logprobs
    pessimistic = sign * torch.minimum(sign * difference, sign * difference.clamp(-low, high))
    losses = -terms.advantages * (terms.mask.sum(-1) / count) * ((pessimistic * terms.mask).sum(-1) / count).exp()
    if terms.correction is not None:
        losses = losses * (((terms.correction + 1e-10).log() * terms.mask).sum(-1) / count).exp()
    return losses.mean()


def clip_fraction_of_both_sides(terms: PolicyTerms, low: float, high: float) -> float:
    """What verl reports, its two metrics together, and the official code: tokens beyond either bound, whether or not it binds."""
    difference = terms.logprobs - terms.old_logprobs
    outside = (difference != difference.clamp(-low, high)) & (terms.advantages != 0)[:, None]
    return float((outside & terms.mask).sum() / terms.mask.sum())


def trl(terms: PolicyTerms, low: float, high: float, accumulation_steps: int = 1) -> Tensor:
    """A mean over the micro-batch's responses, divided by the number of micro-batches in the update. Knows no correction."""
    difference = terms.logprobs - terms.old_logprobs
    clamped = difference.clamp(-low, high)
    positive = (terms.advantages > 0)[:, None]
    pessimistic = torch.where(positive, torch.minimum(difference, clamped), torch.maximum(difference, clamped))
    ratios = ((pessimistic * terms.mask).sum(-1) / terms.mask.sum(-1).clamp(min=1)).exp()
    return -(terms.advantages * ratios).mean() / accumulation_steps
