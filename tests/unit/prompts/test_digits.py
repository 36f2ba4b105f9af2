from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.errors import DataError
from actors.prompts import digits
from actors.prompts.config import DigitTask

TASKS: tuple[DigitTask, ...] = get_args(DigitTask)
numbers = st.integers(min_value=0, max_value=10**12)


@pytest.mark.parametrize(
    ("task", "question", "answer"),
    [
        ("reverse", "483920=", "029384"),
        ("sort", "483920=", "023489"),
        ("running_sum", "483920=", "425466"),
        ("repeated_sum", "4312=", "0300"),
        ("repeated_sum", "01=", "12"),
        ("addition", "123+456=", "579"),
        ("addition", "99+1=", "100"),
    ],
)
def test_solutions(task: DigitTask, question: str, answer: str) -> None:
    assert digits.solution(task, question) == answer


def test_a_worked_response_writes_every_round_and_marks_the_answer() -> None:
    assert digits.worked("repeated_sum", "4312=") == "3410;4003;0032#0300"
    assert len(digits.worked("repeated_sum", "43120214=")) == 71, "long enough for a mean over tokens to matter"


@pytest.mark.parametrize("task", [task for task in TASKS if task != "repeated_sum"])
def test_a_task_without_working_is_answered_at_once(task: DigitTask) -> None:
    problem = digits.problem(task, 6, seed=1, number=2)
    assert digits.worked(task, str(problem.question)) == problem.answer and not problem.columns


@settings(deadline=None)
@given(st.sampled_from(TASKS), st.integers(2, 64), st.integers(0, 2**63), numbers)
def test_a_problem_is_a_pure_function_and_never_held_out(task: DigitTask, size: int, seed: int, number: int) -> None:
    problem = digits.problem(task, size, seed=seed, number=number)
    assert problem == digits.problem(task, size, seed=seed, number=number)
    assert isinstance(problem.question, str) and problem.task == f"digits/{task}"
    assert not digits.is_held_out(problem.question)
    operands = problem.question.removesuffix("=").split("+")
    assert [len(operand) for operand in operands] == [size] * (2 if task == "addition" else 1)
    assert problem.answer == digits.solution(task, problem.question)
    assert problem.columns.get(digits.WORKED, problem.answer) == digits.worked(task, problem.question)


def test_seeds_and_numbers_give_different_problems() -> None:
    first = [digits.problem("reverse", 6, seed=1, number=number).question for number in range(100)]
    other = [digits.problem("reverse", 6, seed=2, number=number).question for number in range(100)]
    assert len(set(map(str, first))) > 95 and first != other


@pytest.mark.parametrize("task", TASKS)
def test_held_out_problems_are_distinct_and_a_prefix_of_more(task: DigitTask) -> None:
    few, many = digits.held_out(task, 6, 50), digits.held_out(task, 6, 200)
    assert few == many[:50]
    assert len({str(problem.question) for problem in many}) == 200
    assert all(digits.is_held_out(str(problem.question)) for problem in many)


def test_one_question_in_sixteen_is_held_out() -> None:
    share = sum(digits.is_held_out(f"{number:04}=") for number in range(10_000)) / 10_000
    assert share == pytest.approx(1 / 16, rel=0.1)


def test_a_small_space_is_held_out_whole_but_not_beyond() -> None:
    available = sum(digits.is_held_out(f"{number:02}=") for number in range(100))
    assert len(digits.held_out("reverse", 2, available)) == available
    with pytest.raises(DataError, match=f"only {available} held-out problems"):
        digits.held_out("reverse", 2, available + 1)


def test_no_digit_but_the_first_of_a_round_can_be_copied_from_before() -> None:
    """Otherwise part of a response could be copied instead of worked out."""
    questions = [f"{digits.problem('repeated_sum', 8, seed=0, number=number).question}" for number in range(200)]
    texts = [question + digits.worked("repeated_sum", question) for question in questions]
    places = list(zip(*texts, strict=True))
    copied = [place % 9 for place in range(9, 80) if places[place] in places[:place]]
    assert set(copied) == {0, 8}, "first digits of rounds, and what stands between rounds"
