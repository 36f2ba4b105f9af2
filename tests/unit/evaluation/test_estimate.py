"""Estimates against enumeration, and intervals against what they promise."""

from __future__ import annotations

import itertools
import math

import pytest

from services.evaluation.estimate import Estimate, over_problems, over_sets, pass_at, wilson


@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("right", [0, 1, 3, 5])
def test_pass_at_k_is_the_share_of_draws_with_a_right_answer(k: int, right: int) -> None:
    answers = [True] * right + [False] * (5 - right)
    draws = list(itertools.combinations(answers, k))
    assert pass_at(k, 5, right) == pytest.approx(sum(map(any, draws)) / len(draws), abs=1e-12)


def test_pass_at_k_of_many_answers_does_not_overflow() -> None:
    assert pass_at(500, 1000, 1) == pytest.approx(0.5)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 0.9])
def test_the_interval_holds_the_true_share_about_as_often_as_it_says(share: float) -> None:
    n = 120
    chances = [math.comb(n, right) * share**right * (1 - share) ** (n - right) for right in range(n + 1)]
    intervals = [wilson(right / n, n) for right in range(n + 1)]
    covered = sum(chance for chance, one in zip(chances, intervals, strict=True) if one.low <= share <= one.high)
    assert 0.93 < covered < 0.98


def test_the_interval_of_nothing_right_is_not_empty() -> None:
    estimate = over_problems([0.0] * 30, 1)
    assert (estimate.value, estimate.low) == (0.0, 0.0)
    assert estimate.high == pytest.approx(0.1135, abs=1e-4)
    assert over_problems([1.0] * 30, 8).high == 1.0


def test_several_answers_narrow_the_interval_only_as_far_as_they_differ() -> None:
    alike = over_problems([1.0, 0.0] * 50, 8)  # each problem's answers agree: eight say no more than one
    independent = over_problems([0.5] * 100, 8)  # as 800 answers to one problem would be
    between = over_problems([0.75, 0.25] * 50, 8)
    assert width(alike) == pytest.approx(width(wilson(0.5, 100)))
    assert width(independent) == pytest.approx(width(wilson(0.5, 800)))
    assert width(independent) < width(between) < width(alike)


def test_one_problem_has_an_interval() -> None:
    assert over_problems([0.5], 8) == wilson(0.5, 1)


def test_the_mean_over_sets_counts_each_set_the_same_and_combines_their_spreads() -> None:
    small, large = over_problems([0.0] * 20 + [1.0] * 10, 1), over_problems([1.0] * 500, 1)
    mean = over_sets([small, large])
    assert mean.value == pytest.approx((1 / 3 + 1) / 2)
    assert width(mean) < width(small)  # half of its spread, and next to nothing of the other's
    symmetric = [Estimate(0.5, 0.4, 0.6), Estimate(0.5, 0.3, 0.7)]
    assert over_sets(symmetric).high - 0.5 == pytest.approx(math.sqrt(0.1**2 + 0.2**2) / 2)


def test_the_mean_over_one_set_is_that_set() -> None:
    one = over_problems([0.0, 1.0, 1.0], 1)
    mean = over_sets([one])
    assert (mean.value, mean.low, mean.high) == pytest.approx((one.value, one.low, one.high))


def width(estimate: Estimate) -> float:
    return estimate.high - estimate.low
