"""The gradient does not depend on how a batch was split: over ranks, over micro-batches, or by which backend."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.learning import Case, Found, gradients

pytestmark = pytest.mark.integration

OBJECTIVES = ("gmpo", "grpo", "gspo")
WHOLE, CUT = 100_000, 64
CASES = [Case(objective, budget) for objective in OBJECTIVES for budget in (WHOLE, CUT)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[Case, Found]:
    """One rank, one micro-batch."""
    cases = [case for case in CASES if case.budget == WHOLE]
    return gradients(tmp_path_factory.mktemp("whole"), ranks=1, backend={"type": "fsdp2"}, cases=cases)


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize(
    "backend",
    [{"type": "fsdp2"}, {"type": "deepspeed", "stage": 2}, {"type": "deepspeed", "stage": 3}],
    ids=["fsdp2", "zero2", "zero3"],
)
def test_the_gradient_is_that_of_one_rank_and_one_micro_batch(
    tmp_path: Path, whole: dict[Case, Found], ranks: int, backend: Mapping[str, Any]
) -> None:
    for case, found in gradients(tmp_path, ranks=ranks, backend=backend, cases=CASES).items():
        expected = whole[Case(case.objective, WHOLE)]
        assert expected.clip_fraction > 0.01
        assert np.linalg.norm(found.gradient - expected.gradient) <= 1e-5 * np.linalg.norm(expected.gradient), case
        assert found.loss == pytest.approx(expected.loss, rel=1e-5), case
        assert found.norm == pytest.approx(expected.norm, rel=1e-5), case
        assert found.clip_fraction == pytest.approx(expected.clip_fraction, rel=1e-6), case
