"""The statistics of the results page, against values worked out by hand and by counting every resample."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from statistics import median

import pytest

from services.study.statistics import Spread, median_chances, one_sided_chance, paired, range_coverage, spread_of, two_sided_chance


def test_of_three_values_the_interval_is_the_range() -> None:
    assert spread_of([0.3, 0.1, 0.2]) == Spread(0.2, 0.1, 0.3, 3)


def test_of_five_values_the_interval_is_the_range() -> None:
    assert spread_of([5, 1, 4, 2, 30]) == Spread(4, 1, 30, 5)


def test_of_seven_values_the_outermost_are_left_out() -> None:
    # The least is the median of a resample with chance P(Bin(7, 1/7) >= 4) = 0.0102, below 2.5 %; it or the next with 0.0999.
    assert spread_of([1, 2, 3, 4, 5, 6, 7]) == Spread(4, 2, 6, 7)


def test_the_chances_of_three_values_by_hand() -> None:
    chances = dict(median_chances([1.0, 2.0, 3.0]))
    assert chances == pytest.approx({1.0: 7 / 27, 2.0: 13 / 27, 3.0: 7 / 27})


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6])
def test_the_chances_are_those_of_counting_every_resample(n: int) -> None:
    values = [float(1 << rank) for rank in range(n)]  # no two pairs have the same mean
    counted = Counter(median(resample) for resample in itertools.product(values, repeat=n))
    expected = {value: count / n**n for value, count in counted.items()}
    chances = {value: chance for value, chance in median_chances(values) if chance > 1e-12}
    assert chances == pytest.approx(expected)


def test_equal_values_have_a_point_for_an_interval() -> None:
    assert spread_of([2.0, 2.0, 2.0, 2.0]) == Spread(2.0, 2.0, 2.0, 4)


def test_values_that_are_not_finite_are_left_out_and_not_counted() -> None:
    assert spread_of([math.nan, 1.0, math.inf, 2.0, 3.0]) == Spread(2.0, 1.0, 3.0, 3)
    assert spread_of([math.nan]) is None


def test_differences_that_are_not_finite_are_left_out() -> None:
    difference = paired({4: -0.25, 0: 0.4, 2: math.nan, 1: 0.3})
    assert difference is not None
    assert difference.differences == (0.4, 0.3, -0.25)
    assert difference.above == 2
    assert difference.spread == Spread(0.3, -0.25, 0.4, 3)
    assert paired({0: math.nan}) is None


def test_what_few_seeds_are_worth() -> None:
    assert [range_coverage(n) for n in (3, 5)] == [0.75, 0.9375]
    assert [one_sided_chance(n) for n in (3, 5)] == [0.125, 0.03125]


@pytest.mark.parametrize("n", [3, 4, 5, 7, 9, 11])
def test_the_chance_of_a_difference_where_there_is_none_is_that_of_signs_at_random(n: int) -> None:
    sizes = [1.0 + rank / 100 for rank in range(n)]
    found = 0
    for signs in itertools.product((-1, 1), repeat=n):
        spread = spread_of(sign * size for sign, size in zip(signs, sizes, strict=True))
        assert spread is not None
        found += spread.low > 0 or spread.high < 0
    assert found / 2**n == two_sided_chance(n)
