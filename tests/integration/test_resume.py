"""A learner that goes on from a checkpoint does what the unbroken one does, also on another number of ranks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.learning import two_steps

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("backend", [{"type": "fsdp2"}, {"type": "deepspeed", "stage": 2}], ids=["fsdp2", "zero2"])
def test_resumed_on_one_two_or_three_ranks_it_equals_the_unbroken_run(tmp_path: Path, backend: Mapping[str, Any]) -> None:
    unbroken, loss = two_steps(tmp_path, ranks=2, backend=backend)
    again, again_loss = two_steps(tmp_path, ranks=2, backend=backend, resume=True)
    assert np.array_equal(again, unbroken) and again_loss == loss
    for ranks in (1, 3):
        found, found_loss = two_steps(tmp_path, ranks=ranks, backend=backend, resume=True)
        assert np.linalg.norm(found - unbroken) <= 1e-5 * np.linalg.norm(unbroken)
        assert found_loss == pytest.approx(loss, rel=1e-4)
