from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from actors.learner import sketch


@given(st.lists(st.floats(-30, 30), min_size=1, max_size=200), st.sampled_from([0.01, 0.25, 0.5, 0.99]))
def test_a_quantile_is_off_by_less_than_two_percent(values: list[float], share: float) -> None:
    tensor = torch.tensor(values, dtype=torch.float64)
    exact = float(tensor.sort().values[math.floor(share * (len(values) - 1))])
    assert sketch.quantile(sketch.counts(tensor), share) == pytest.approx(exact, rel=0.02, abs=2e-6)


def test_pieces_add_up_to_the_whole() -> None:
    values = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    together = sketch.counts(values)
    assert torch.equal(sketch.counts(values[:300]) + sketch.counts(values[300:]), together)


def test_what_lies_beyond_the_bins_counts_at_their_end() -> None:
    assert sketch.quantile(sketch.counts(torch.tensor([1e9])), 0.5) == pytest.approx(sketch.LARGEST, rel=0.05)
    assert sketch.quantile(sketch.counts(torch.tensor([-1e9])), 0.5) == pytest.approx(-sketch.LARGEST, rel=0.05)


def test_of_nothing_there_is_no_quantile() -> None:
    assert math.isnan(sketch.quantile(sketch.counts(torch.tensor([])), 0.5))
