"""The learner: one step's rollouts become `updates_per_step` optimizer steps.

old = score(rows)                                  once, before the first update: the ratio's denominator
for each update:
    for each micro-batch:  backward(objective(score(rows), old, totals of the update))
    step
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist

from actors.learner.backends import Backend
from actors.learner.batching import MicroBatch, empty_micro_batch, micro_batches
from actors.learner.config import LearnerConfig
from actors.learner.objectives import build
from actors.learner.objectives.terms import BatchTotals, PolicyTerms
from actors.learner.schedule import learning_rate
from actors.learner.tally import Tally
from actors.types import StepResult, TrainBatch


@dataclass(frozen=True, slots=True)
class LearnerSpec:
    """What the learner must know of the run."""

    config: LearnerConfig
    temperature: float
    total_updates: int


class Learner:
    """Trains a backend's policy. All ranks call `train` together, each with its own rows."""

    def __init__(self, backend: Backend, spec: LearnerSpec, *, updates_done: int = 0) -> None:
        self.backend = backend
        self.updates_done = updates_done
        self._spec = spec
        self._objective = build(spec.config.objective)

    def train(self, batch: TrainBatch) -> StepResult:
        """Learn from one step's rows; the result's version is the step's number."""
        began = time.monotonic()
        tally, norms = Tally(), []
        parts = [self._micro_batches(batch, update) for update in range(len(batch.totals))]
        old = [[self._denominator(micro, tally) for micro in part] for part in parts]
        for part, denominators, totals in zip(parts, old, batch.totals, strict=True):
            norms.append(self._update(part, denominators, totals, tally))
        figures = tally.reduce()
        seconds = time.monotonic() - began
        return StepResult(batch.step, self._metrics(figures, norms, batch.totals, seconds))

    def _micro_batches(self, batch: TrainBatch, update: int) -> list[MicroBatch]:
        """This rank's micro-batches of an update, padded with empty ones to the largest number on any rank."""
        device = self.backend.device
        part = micro_batches(batch.update_rows(update), self._spec.config.micro_batch_tokens, device)
        count = torch.tensor(max(1, len(part)), device=device)
        dist.all_reduce(count, dist.ReduceOp.MAX)
        return part + [empty_micro_batch(device) for _ in range(int(count) - len(part))]

    @torch.no_grad()
    def _denominator(self, micro: MicroBatch, tally: Tally) -> torch.Tensor:
        """log pi_old [N, T], and how far the engine's log-probs are from the learner's on tokens of the same version."""
        scores = self.backend.score(micro.batch, self._spec.temperature)
        gap = (scores.logprobs - micro.behaviour).abs()
        same = micro.current & micro.mask
        tally.add(
            {
                "mismatch": gap[same].sum(),
                "mismatch_tokens": same.sum(),
                "entropy": scores.entropy[micro.mask].sum(),
                "kl_ref": _k3(scores.logprobs, micro.reference)[micro.mask].sum() if micro.reference is not None else gap.new_zeros(()),
                "ref_tokens": micro.mask.sum() if micro.reference is not None else gap.new_zeros(()),
                "kl_behaviour": (micro.behaviour - scores.logprobs)[micro.mask].sum(),
                "scored_tokens": micro.mask.sum(),
            }
        )
        return micro.behaviour if self._spec.config.denominator == "behaviour" else scores.logprobs

    def _update(self, part: Sequence[MicroBatch], old: Sequence[torch.Tensor], totals: BatchTotals, tally: Tally) -> float:
        config = self._spec.config
        for index, (micro, denominator) in enumerate(zip(part, old, strict=True)):
            scores = self.backend.score(micro.batch, self._spec.temperature)
            terms = PolicyTerms(scores.logprobs, denominator, micro.advantages, micro.mask, None, micro.reference, scores.entropy)
            result = self._objective(terms, totals)
            loss = result.loss + self._kl_loss(terms, totals)
            # A micro-batch without a single valid row must still reach every parameter, or the ranks' collectives part ways.
            self.backend.backward(loss + 0.0 * scores.logprobs.sum(), last=index == len(part) - 1)
            tally.add({**result.metrics, "loss": loss})
        lr = learning_rate(config.optimizer, self.updates_done, self._spec.total_updates)
        self.updates_done += 1
        return self.backend.step(lr, config.max_grad_norm)

    def _kl_loss(self, terms: PolicyTerms, totals: BatchTotals) -> torch.Tensor:
        coefficient = self._spec.config.kl_coefficient
        if coefficient == 0 or terms.ref_logprobs is None:
            return terms.logprobs.new_zeros(())
        return coefficient * (_k3(terms.logprobs, terms.ref_logprobs) * terms.mask).sum() / max(1, totals.tokens)

    def _metrics(self, figures: dict[str, float], norms: list[float], totals: Sequence[BatchTotals], seconds: float) -> dict[str, float]:
        updates, scored = len(totals), figures["scored_tokens"]
        metrics = {
            "learner/loss": figures["loss"] / updates,
            "learner/grad_norm": sum(norms) / updates,
            "learner/lr": learning_rate(self._spec.config.optimizer, self.updates_done - 1, self._spec.total_updates),
            "learner/updates": float(updates),
            "learner/tokens_per_s": scored / seconds,
            "learner/seconds": seconds,
        }
        if scored:  # a mean over no token is no figure
            metrics |= {
                "learner/log_ratio_min": figures["log_ratio_min"],
                "learner/log_ratio_max": figures["log_ratio_max"],
                "learner/sequence_ratio": figures["sequence_ratio"] / max(1.0, figures["answered"]),
                "learner/clip_fraction": figures["clip_fraction"] / updates,
                "learner/entropy": figures["entropy"] / scored,
                "learner/kl_behaviour": figures["kl_behaviour"] / scored,
            }
        if figures["mismatch_tokens"]:
            metrics["learner/mismatch"] = figures["mismatch"] / figures["mismatch_tokens"]
        if figures["ref_tokens"]:
            metrics["learner/kl_ref"] = figures["kl_ref"] / figures["ref_tokens"]
        return metrics


def _k3(logprobs: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """k3 estimate of KL(policy || reference) per token, in nats: exp(d) - d - 1 with d = reference - policy (J. Schulman, 2020)."""
    difference = (reference - logprobs).clamp(-20.0, 20.0)
    return difference.exp() - difference - 1
