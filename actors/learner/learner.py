"""The learner: one step's rollouts become `updates_per_step` optimizer steps.

old = score(rows)                                  once, before the first update: the ratio's denominator
for each update:
    for each micro-batch:  backward(objective(score(rows), old, totals of the update))
    step, or skip it on all ranks where loss or gradient is not finite on one
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist

from actors.errors import TrainingDiverged
from actors.learner import correction, figures
from actors.learner.backends import Backend
from actors.learner.batching import MicroBatch, micro_batches, pieces
from actors.learner.config import LearnerConfig
from actors.learner.objectives import build
from actors.learner.objectives.terms import BatchTotals, PolicyTerms
from actors.learner.regularizers import regularizer_loss
from actors.learner.schedule import learning_rate
from actors.learner.tally import Tally
from actors.modeling.logprobs import TokenScores
from actors.types import StepResult, TrainBatch


@dataclass(frozen=True, slots=True)
class LearnerSpec:
    """What the learner must know of the run."""

    config: LearnerConfig
    temperature: float
    total_updates: int


@dataclass(slots=True)
class Progress:
    """What a checkpoint must remember beside weights and moments."""

    updates_done: int = 0  # applied or skipped
    skipped: int = 0  # updates skipped in a row


class Learner:
    """Trains a backend's policy. All ranks call `train` together, each with its own rows."""

    def __init__(self, backend: Backend, spec: LearnerSpec) -> None:
        self.backend = backend
        self.progress = Progress()
        self._spec = spec
        self._objective = build(spec.config.objective)

    def train(self, batch: TrainBatch) -> StepResult:
        """Learn from one step's rows; the result's version is the step's number. TrainingDiverged after too many skipped updates."""
        began = time.monotonic()
        tally, norms = Tally(), []
        parts = self._cut(batch)
        old = self._denominators(parts, tally)
        for update, totals in enumerate(batch.totals):
            norms.append(self._update(parts[update], old[update], totals, tally, first=update == 0))
        sums = tally.reduce()
        seconds = time.monotonic() - began
        applied = [norm for norm in norms if math.isfinite(norm)]
        metrics = {
            **figures.metrics(sums, len(norms)),
            "learner/lr": self._learning_rate(self.progress.updates_done - 1),
            "learner/updates": float(len(applied)),
            "learner/skipped_updates": float(len(norms) - len(applied)),
            "learner/tokens_per_s": float(sums["learned"]) / seconds,
            "learner/seconds": seconds,
        }
        if applied:
            metrics["learner/grad_norm"] = sum(applied) / len(applied)
        return StepResult(batch.step, metrics)

    def _cut(self, batch: TrainBatch) -> list[list[MicroBatch]]:
        """This rank's micro-batches of each update: as many on every rank, or the collectives of sharded parameters part ways."""
        updates = [batch.update_rows(update) for update in range(len(batch.totals))]
        budget = self._spec.config.micro_batch_tokens
        counts = torch.tensor([max(1, pieces(rows, budget)) for rows in updates], device=self.backend.device)
        dist.all_reduce(counts, dist.ReduceOp.MAX)
        return [micro_batches(rows, count, self.backend.device) for rows, count in zip(updates, counts.tolist(), strict=True)]

    def _denominators(self, parts: Sequence[Sequence[MicroBatch]], tally: Tally) -> list[list[torch.Tensor | None]]:
        """log pi_old [N, T] of each micro-batch, where it has to be known before the policy moves.

        The first update is made under pi_old itself, so its own forward pass gives them: None.
        """
        if self._spec.config.denominator == "behaviour":
            return [[micro.behaviour for micro in part] for part in parts]
        first, *others = parts
        scored: list[list[torch.Tensor | None]] = [[self._score_only(micro, tally) for micro in part] for part in others]
        return [[None for _ in first], *scored]

    @torch.no_grad()
    def _score_only(self, micro: MicroBatch, tally: Tally) -> torch.Tensor:
        scores = self.backend.score(micro.batch, self._spec.temperature)
        tally.add(figures.of_scores(scores, micro))
        return scores.logprobs

    def _update(
        self, part: Sequence[MicroBatch], old: Sequence[torch.Tensor | None], totals: BatchTotals, tally: Tally, *, first: bool
    ) -> float:
        """One optimizer step, the `first` or a later one of its step. The gradient norm; nan if the update was skipped."""
        config = self._spec.config
        loss = torch.zeros((), dtype=torch.float64, device=self.backend.device)
        for index, (micro, denominator) in enumerate(zip(part, old, strict=True)):
            scores = self.backend.score(micro.batch, self._spec.temperature, entropy_gradient=config.entropy_coefficient > 0)
            if first:
                tally.add(figures.of_scores(scores, micro))
            pi_old = scores.logprobs.detach() if denominator is None else denominator
            share = self._loss(micro, scores, pi_old, totals, tally)
            # A micro-batch without a single valid row must still reach every parameter, or the ranks' collectives part ways.
            self.backend.backward(share + 0.0 * scores.logprobs.sum(), last=index == len(part) - 1)
            loss += share.detach()
        return self._step(loss)

    def _loss(self, micro: MicroBatch, scores: TokenScores, old: torch.Tensor, totals: BatchTotals, tally: Tally) -> torch.Tensor:
        """This piece's share of the update's loss."""
        config = self._spec.config
        weights = correction.weights(config.correction, old, micro.behaviour, micro.mask)
        terms = PolicyTerms(scores.logprobs, old, micro.advantages, micro.mask, weights, micro.reference, scores.entropy)
        result = self._objective(terms, totals)
        loss = result.loss + regularizer_loss(config.kl, config.entropy_coefficient, terms, totals)
        tally.add(figures.of_ratios(scores.logprobs, old, micro) | figures.of_correction(weights, micro))
        tally.add({**result.metrics, "loss": loss})
        return loss

    def _step(self, loss: torch.Tensor) -> float:
        """Step, unless the loss (its sum on any rank) or the gradient is not finite: then every rank skips it."""
        config, progress = self._spec.config, self.progress
        poisoned = (~loss.isfinite()).to(torch.int32)
        dist.all_reduce(poisoned, dist.ReduceOp.MAX)
        lr = self._learning_rate(progress.updates_done)
        progress.updates_done += 1
        if poisoned:
            self.backend.discard()
            norm = math.nan
        else:
            norm = self.backend.step(lr)
        progress.skipped = 0 if math.isfinite(norm) else progress.skipped + 1
        if progress.skipped >= config.max_skipped_updates:
            raise TrainingDiverged(f"{progress.skipped} updates in a row had a loss or a gradient that is not finite")
        return norm

    def _learning_rate(self, update: int) -> float:
        return learning_rate(self._spec.config.optimizer, update, self._spec.total_updates)
