"""One update gives one loss and one gradient in float32, however its rows are cut into micro-batches, ordered or padded."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from tests.unit.learner.objective_batches import (
    OBJECTIVES,
    Array,
    Batch,
    Outcome,
    computed,
    label,
    random_batch,
    with_correction,
    with_holes,
)

LIMIT = 1e-5
CUTS = {1: [0, 24], 2: [0, 5, 24], 3: [0, 1, 15, 24], 5: [0, 2, 3, 10, 21, 24], 8: [0, 1, 2, 4, 9, 10, 17, 23, 24]}
"""Where 24 rows are cut into so many unequal pieces."""


@pytest.fixture(scope="module")
def update() -> Batch:
    """24 responses of 0 to 150 tokens after a few updates: log-ratios within 0.6, holes, some tokens rejected."""
    random = np.random.default_rng(11)
    lengths = [0, 1, 150, *(int(length) for length in random.integers(0, 120, 21))]
    advantages = [0.0, *(float(value) for value in random.normal(0, 1.2, 23))]
    batch = with_holes(random_batch(random, lengths, advantages, scale=0.6, outliers=0.0), random, share=0.1)
    return with_correction(batch, random, rejected=0.05)


def single(config: dict[str, Any], batch: Batch, whole: Batch) -> Outcome:
    return computed(config, batch, whole.totals, torch.float32)


def distance(first: Array, second: Array) -> float:
    return float(np.linalg.norm(first - second) / np.linalg.norm(second))


def in_pieces(config: dict[str, Any], batch: Batch, cut: list[int]) -> Outcome:
    """Losses and metrics added up over the pieces, gradients side by side; each piece as wide as its longest response."""
    pieces = []
    for start, end in pairwise(cut):
        piece = batch.rows(slice(start, end))
        width = max(1, *(np.flatnonzero(row).max(initial=-1) + 1 for row in piece.mask))
        result = single(config, piece.narrowed(width), batch)
        pieces.append(result._replace(gradient=np.pad(result.gradient, ((0, 0), (0, batch.mask.shape[1] - width)))))
    metrics = {name: sum(piece.metrics[name] for piece in pieces) for name in pieces[0].metrics}
    return Outcome(sum(piece.loss for piece in pieces), np.concatenate([piece.gradient for piece in pieces]), metrics)


@pytest.mark.parametrize("corrected", [False, True], ids=["plain", "corrected"])
@pytest.mark.parametrize("config", OBJECTIVES, ids=label)
def test_the_cut_the_order_and_the_padding_do_not_matter(config: dict[str, Any], corrected: bool, update: Batch) -> None:
    batch = update if corrected else update._replace(correction=None)
    whole = single(config, batch, batch)
    terms = sum(abs(single(config, batch.rows(slice(row, row + 1)), batch).loss) for row in range(24))
    order = np.random.default_rng(5).permutation(24)
    for cut in CUTS.values():
        shuffled = batch.rows(order).widened(37)
        for variant, gradient in (
            (in_pieces(config, batch, cut), whole.gradient),
            (in_pieces(config, shuffled, cut), np.pad(whole.gradient[order], ((0, 0), (0, 37)))),
        ):
            assert abs(variant.loss - whole.loss) <= LIMIT * terms
            assert distance(variant.gradient, gradient) <= LIMIT
            assert variant.metrics == pytest.approx(whole.metrics, rel=1e-4)
    padded = single(config, batch.widened(200), batch)
    assert abs(padded.loss - whole.loss) <= LIMIT * terms
    assert distance(padded.gradient[:, : batch.mask.shape[1]], whole.gradient) <= LIMIT
