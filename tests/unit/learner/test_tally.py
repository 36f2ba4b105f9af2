from __future__ import annotations

import math

import pytest
import torch

from actors.learner.tally import Tally

pytestmark = pytest.mark.usefixtures("single_rank")


def reduced(*pieces: dict[str, float]) -> dict[str, float]:
    tally = Tally()
    for piece in pieces:
        tally.add({name: torch.tensor(value) for name, value in piece.items()})
    return {name: float(value) for name, value in tally.reduce().items()}


def test_figures_add_up_except_extremes() -> None:
    found = reduced({"loss": 1.0, "x_min": -1.0, "x_max": 2.0}, {"loss": 0.5, "x_min": 3.0, "x_max": -4.0})
    assert found == {"loss": 1.5, "x_min": -1.0, "x_max": 2.0}


def test_vectors_add_up_place_by_place() -> None:
    tally = Tally()
    for _ in range(2):
        tally.add({"counts": torch.tensor([1.0, 2.0]), "loss": torch.tensor(3.0)})
    found = tally.reduce()
    assert found["counts"].tolist() == [2.0, 4.0] and found["loss"] == 6.0


def test_an_extreme_of_nothing_is_zero() -> None:
    assert reduced({"x_min": math.inf, "x_max": -math.inf}) == {"x_min": 0.0, "x_max": 0.0}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_is_not_reported_as_zero(value: float) -> None:
    assert str(reduced({"loss": 1.0}, {"loss": value})["loss"]) == str(value)


def test_a_nan_log_ratio_shows_in_the_extremes() -> None:
    assert math.isnan(reduced({"x_min": math.nan}, {"x_min": 0.0})["x_min"])
