"""The gradient does not depend on how a batch was split: over ranks, or over micro-batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.learning import gradients

pytestmark = pytest.mark.integration


def test_two_ranks_and_any_micro_batches_give_the_gradient_of_one(tmp_path: Path) -> None:
    whole, loss, clipped = gradients(tmp_path, ranks=1, budget=100_000)
    assert clipped > 0.01
    for ranks, budget in ((2, 100_000), (2, 64), (1, 64)):
        found, found_loss, found_clipped = gradients(tmp_path, ranks=ranks, budget=budget)
        for ours, theirs in zip(found, whole, strict=True):
            assert np.linalg.norm(ours - theirs) <= 1e-5 * np.linalg.norm(theirs)
        assert found_loss == pytest.approx(loss, rel=1e-5)
        assert found_clipped == pytest.approx(clipped, rel=1e-6)
