from __future__ import annotations

from decimal import Decimal

import pytest

from actors.reward import answers


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"so \boxed{5}.", "5"),
        (r"\boxed{1} no, \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed {7}", "7"),
        (r"\fbox{8}", "8"),
        (r"\boxed{\left\{ x \right.}", r"\left\{ x \right."),
        (r"\boxed{1} and then \boxed{2", None),  # the last one was cut off
        (r"\boxed{}", None),
        ("no box", None),
        ("", None),
    ],
)
def test_last_boxed_matches_braces(text: str, content: str | None) -> None:
    assert answers.last_boxed(text) == content


def test_searching_megabytes_of_borders_is_linear() -> None:
    assert answers.last_boxed(r"\boxed{" * 500_000) is None
    assert answers.last_tagged("<answer>" * 500_000, "answer") is None
    assert answers.nesting("{" * 1_000_000) == 1_000_000


def test_last_tagged_takes_the_last_closed_pair() -> None:
    assert answers.last_tagged("<answer> 1 </answer><answer>2</answer><answer>3", "answer") == "2"
    assert answers.last_tagged("1</answer>", "answer") is None


def test_whole_floats_become_integers() -> None:
    assert answers.gold_texts(142.0) == ["142"]
    assert answers.gold_texts(0.5) == ["0.5"]
    assert answers.gold_texts(["3 \n", 4, 5.0]) == ["3", "4", "5"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (r"\dfrac{1}{2}", r"\frac12"),
        (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\frac{\pi}{2})"),
        (r"10,\!080", "10080"),
        ("2{,}016{,}532", "2,016,532"),
        (r"\$36", "36."),
        (r"90^\circ", "90^{\\circ}"),
        ("$5$", "5"),
    ],
)
def test_spellings_have_one_canonical_form(one: str, other: str) -> None:
    assert answers.canonical(one) == answers.canonical(other)


@pytest.mark.parametrize(
    ("one", "other"), [("1,2", "12"), ("(1,2)", "(2,1)"), (r"\frac{1}{23}", r"\frac{12}{3}"), ("52_8", "52_9"), ("-5", "5")]
)
def test_different_answers_keep_different_forms(one: str, other: str) -> None:
    assert answers.canonical(one) != answers.canonical(other)


def test_numbers_understand_separators_and_signs() -> None:
    assert answers.numbers("from 1,2 to $1,234.50. then -.5") == [Decimal(1), Decimal(2), Decimal("1234.50"), Decimal("-0.5")]
    assert answers.numbers("12345678") == [Decimal(12345678)]
