"""Learner metrics: sums over each micro-batch's tokens while a step goes on, the step's metrics from them at its end.

Ratios: `old` is the objective's denominator, `behaviour` what the engine sampled with, `reference` the frozen starting policy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from actors.learner import sketch
from actors.learner.batching import MicroBatch
from actors.learner.objectives.ratios import LOG_RATIO_LIMIT
from actors.learner.regularizers import kl_estimate
from actors.modeling.logprobs import TokenScores


def of_scores(scores: TokenScores, micro: MicroBatch) -> dict[str, torch.Tensor]:
    """Sums over a piece scored under the policy that the step began with.

    Which pieces are: all, or with `denominator: behaviour` those of the first update; without the groups that `skip_zero_advantage`
    left out.
    """
    with torch.no_grad():
        logprobs, mask = scores.logprobs, micro.mask
        gap = (logprobs - micro.behaviour).abs()
        same = gap[micro.current & mask]
        nothing = gap.new_zeros(())
        reference = micro.reference
        return {
            "scored": mask.sum(),
            "entropy": scores.entropy[mask].sum(),
            "kl_behaviour": (micro.behaviour - logprobs)[mask].sum(),
            "mismatch": same.sum(),
            "mismatch_max": same.max() if same.numel() else nothing,
            "mismatch_tokens": (micro.current & mask).sum(),
            "kl_ref": nothing if reference is None else kl_estimate(logprobs, reference, "k3")[mask].sum(),
            "referred": nothing if reference is None else mask.sum(),
        }


def of_ratios(logprobs: torch.Tensor, old: torch.Tensor, micro: MicroBatch) -> dict[str, torch.Tensor]:
    """Sums over a piece that an update learns from: the spread of log pi / pi_old, the weights pi / pi_behaviour."""
    with torch.no_grad():
        ratios = (logprobs - old)[micro.mask]
        importance = (logprobs - micro.behaviour)[micro.mask].clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp().double()
        return {
            "log_ratio_min": ratios.min() if ratios.numel() else ratios.new_tensor(float("inf")),
            "log_ratio_max": ratios.max() if ratios.numel() else ratios.new_tensor(float("-inf")),
            "log_ratio_counts": sketch.counts(ratios),
            "learned": micro.mask.sum(),
            "importance": importance.sum(),
            "importance_squared": (importance * importance).sum(),
        }


def of_correction(weights: torch.Tensor | None, micro: MicroBatch) -> dict[str, torch.Tensor]:
    """Sums of the rollout-correction weights [N, T] of a piece; empty where there is no correction."""
    if weights is None:
        return {}
    kept = weights[micro.mask]
    return {"corrected": micro.mask.sum(), "correction": kept.sum(), "rejected": (kept == 0).sum()}


def metrics(sums: Mapping[str, torch.Tensor], updates: int) -> dict[str, float]:
    """The step's metrics from sums over all pieces and ranks. What is not finite, or a mean over nothing, is no figure and is left out."""
    total = {name: float(value) for name, value in sums.items() if value.numel() == 1}
    found = {"learner/loss": total["loss"] / updates}
    if total["learned"]:
        found |= {
            "learner/log_ratio_min": total["log_ratio_min"],
            "learner/log_ratio_p01": max(total["log_ratio_min"], sketch.quantile(sums["log_ratio_counts"], 0.01)),
            "learner/log_ratio_p99": min(total["log_ratio_max"], sketch.quantile(sums["log_ratio_counts"], 0.99)),
            "learner/log_ratio_max": total["log_ratio_max"],
            "learner/sequence_ratio": total["sequence_ratio"] / max(1.0, total["answered"]),
            "learner/clip_fraction": total["clip_fraction"] / updates,
            "learner/effective_samples": total["importance"] ** 2 / (total["learned"] * total["importance_squared"]),
        }
    if total["scored"]:
        found["learner/entropy"] = total["entropy"] / total["scored"]
        found["learner/kl_behaviour"] = total["kl_behaviour"] / total["scored"]
    if total["mismatch_tokens"]:
        found["learner/mismatch"] = total["mismatch"] / total["mismatch_tokens"]
        found["learner/mismatch_max"] = total["mismatch_max"]
    if total["referred"]:
        found["learner/kl_ref"] = total["kl_ref"] / total["referred"]
    if total.get("corrected"):
        found["learner/correction_mean"] = total["correction"] / total["corrected"]
        found["learner/correction_rejected"] = total["rejected"] / total["corrected"]
    return {name: value for name, value in found.items() if math.isfinite(value)}
