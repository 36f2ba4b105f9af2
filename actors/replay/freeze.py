"""Freezing a step: from its groups' metadata to advantages, updates, totals, and each rank's share. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from actors.types import GRADED, BatchTotals, GroupMeta, Outcome, RowPlan

Advantages = Callable[[Sequence[GroupMeta]], list[NDArray[np.float64]]]
"""Of all groups of a step at once: [groups][G]."""


@dataclass(frozen=True, slots=True)
class FrozenStep:
    """A step that will not change any more: the same for every rank, and for every later attempt at it."""

    step: int
    metas: tuple[GroupMeta, ...]  # in ordinal order
    advantages: tuple[tuple[float, ...], ...]  # [groups][G], 0 where a response is masked
    rows: tuple[RowPlan, ...]  # what is to be computed; group indexes `metas`
    totals: tuple[BatchTotals, ...]  # [U]
    metrics: dict[str, float]

    @property
    def ordinals(self) -> tuple[int, ...]:
        """The prompts of the step."""
        return tuple(meta.ordinal for meta in self.metas)


def freeze(
    step: int,
    metas: Sequence[GroupMeta],
    *,
    advantages: Advantages,
    updates: int,
    seed: int,
    skip_zero_advantage: bool,
    filtered: int | None = None,
) -> FrozenStep:
    """Cut a step's responses into updates of equal size, in an order shuffled by (seed, step).

    Masked responses are left out of rows and totals; responses of zero-advantage groups are left out of rows only. `filtered` groups
    were dropped on the way to this step.
    """
    values = tuple(tuple(map(float, group)) for group in advantages(metas))
    zeros = {group for group, row in enumerate(values) if not any(row)}
    rows: list[tuple[RowPlan, int]] = []  # with the response's length; the update is filled in below
    for group, meta in enumerate(metas):
        for sample, (value, outcome) in enumerate(zip(values[group], meta.outcomes, strict=True)):
            if outcome in GRADED:
                rows.append((RowPlan(group, sample, 0, value), meta.lengths[sample]))
    order = np.random.default_rng((seed, step)).permutation(len(rows))
    plans, totals = [], []
    for update, part in enumerate(np.array_split(order, updates)):
        chosen = [rows[index] for index in sorted(part)]
        totals.append(BatchTotals(len(chosen), sum(length for _, length in chosen)))
        plans += [plan._replace(update=update) for plan, _ in chosen if not (skip_zero_advantage and plan.group in zeros)]
    metrics = _metrics(step, metas) | {"reward/zero_advantage_groups": float(len(zeros))}
    if filtered is not None:
        metrics["reward/filtered_groups"] = float(filtered)
    return FrozenStep(step, tuple(metas), values, tuple(plans), tuple(totals), metrics)


def share(frozen: FrozenStep, rank: int, ranks: int) -> tuple[RowPlan, ...]:
    """The rows of one rank: within each update, longest first (prompt and response) to whoever has the fewest tokens yet."""

    def tokens(row: RowPlan) -> int:
        meta = frozen.metas[row.group]
        return meta.prompt_length + meta.lengths[row.sample]

    mine = []
    for update in range(len(frozen.totals)):
        loads = [0] * ranks
        rows = [row for row in frozen.rows if row.update == update]
        for row in sorted(rows, key=lambda row: (-tokens(row), row.group, row.sample)):
            owner = loads.index(min(loads))
            loads[owner] += tokens(row)
            if owner == rank:
                mine.append(row)
    return tuple(mine)


def _metrics(step: int, metas: Sequence[GroupMeta]) -> dict[str, float]:
    outcomes = [outcome for meta in metas for outcome in meta.outcomes]
    graded = [score for meta in metas for score, outcome in zip(meta.scores, meta.outcomes, strict=True) if outcome in GRADED]
    ages = [step - 1 - meta.versions[0] for meta in metas]
    lengths = [length for meta in metas for length in meta.lengths]
    metrics = {
        "reward/mean": float(np.mean(graded)) if graded else 0.0,
        "reward/std": float(np.std(graded)) if graded else 0.0,
        "reward/right": outcomes.count(Outcome.RIGHT) / max(1, len(graded)),
        "reward/parse_failures": float(outcomes.count(Outcome.UNPARSEABLE)),
        "reward/masked": float(len(outcomes) - len(graded)),
        "generation/tokens": float(sum(lengths)),
        "generation/length_mean": float(np.mean(lengths)),
        "generation/truncated": float(sum(meta.truncated for meta in metas)),
        "generation/empty": float(lengths.count(0)),
        "staleness/mean": float(np.mean(ages)),
        "staleness/max": float(max(ages)),
    }
    if costs := [cost for meta in metas for cost in meta.kl]:
        metrics["reward/kl"] = float(np.mean(costs))
    for name in {name for meta in metas for name in meta.parts}:
        metrics[f"reward/part/{name}"] = float(np.mean([meta.parts[name] for meta in metas if name in meta.parts]))
    return metrics
