"""Problems about digits, for a policy small enough to learn on a laptop: `483920=` -> `029384`.

| task         | question   | answer   |                                    |
|--------------|------------|----------|------------------------------------|
| reverse      | `483920=`  | `029384` |                                    |
| sort         | `483920=`  | `023489` |                                    |
| running_sum  | `483920=`  | `425466` | sums so far, modulo 10             |
| repeated_sum | `4312=`    | `0300`   | after as many rounds as digits     |
| addition     | `123+456=` | `579`    | no number starts with 0            |

A round of repeated_sum puts the first digit last and takes the sums so far, modulo 5; its digits are below 5. A response holds every
round, `3410;4003;0032#0300`, and with its end n (n + 1) tokens for n digits. Only what comes after the last `#` is graded. The working is
free, but a round loses nothing of the one before, so that one wrong digit leads to a wrong answer. (Without the move, sums of sums modulo a
prime come back to the question's own digits, and copying would do in place of adding.)

Answers are text: their leading zeros count. A question whose hash says so is held out, one in 16, whatever the seed: training,
warm-up and evaluation then agree without a list.
"""

from __future__ import annotations

import hashlib
from itertools import accumulate

import numpy as np

from actors.errors import DataError
from actors.prompts.config import DigitTask
from actors.prompts.problems import Problem

HELD_OUT_SHARE = 16
FEW = 5
"""The modulus of repeated_sum, whose digits are below it: 25 sums are learned much sooner than 100."""
WORKED = "worked"
"""The column that holds a whole right response, where it is more than the answer: what warm-up teaches."""


def problem(task: DigitTask, digits: int, *, seed: int, number: int) -> Problem:
    """The number-th problem to train on: a pure function of its arguments, never one that is held out."""
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, number])))
    while True:
        question = _draw(task, digits, generator)
        if not is_held_out(question):
            return _problem(task, question, f"digits/{task}#{number}")


def held_out(task: DigitTask, digits: int, count: int) -> list[Problem]:
    """`count` different problems for evaluation, the same ones for every seed; fewer are the first of more."""
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(digits)))
    questions: dict[str, None] = {}
    # Enough draws to meet every question of a small space with near certainty, and an end where there are not `count` of them.
    for _ in range(1000 + 16 * HELD_OUT_SHARE * count):
        if len(questions) == count:
            break
        question = _draw(task, digits, generator)
        if is_held_out(question):
            questions[question] = None
    if len(questions) < count:
        raise DataError(f"digits/{task} with {digits} digits has only {len(questions)} held-out problems, not {count}")
    return [_problem(task, question, f"digits/{task}/held-out#{index}") for index, question in enumerate(questions)]


def is_held_out(question: str) -> bool:
    """Whether a question is kept for evaluation."""
    return hashlib.blake2b(question.encode(), digest_size=1).digest()[0] % HELD_OUT_SHARE == 0


def solution(task: DigitTask, question: str) -> str:
    """The right answer to a question as this module writes it, `=` at its end included."""
    given = question.removesuffix("=")
    match task:
        case "reverse":
            return given[::-1]
        case "sort":
            return "".join(sorted(given))
        case "running_sum":
            return _sums(given, 10)
        case "repeated_sum":
            return _rounds(given)[-1]
        case "addition":
            return str(sum(map(int, given.split("+"))))


def worked(task: DigitTask, question: str) -> str:
    """A whole right response to a question: the answer, after the working where the task has any."""
    if task != "repeated_sum":
        return solution(task, question)
    *working, answer = _rounds(question.removesuffix("="))
    return f"{';'.join(working)}#{answer}"


def _rounds(given: str) -> list[str]:
    """Each round of repeated_sum, as many as there are digits."""
    rounds = []
    for _ in range(len(given)):
        given = _sums(given[1:] + given[0], FEW)
        rounds.append(given)
    return rounds


def _sums(given: str, modulus: int) -> str:
    return "".join(str(total % modulus) for total in accumulate(map(int, given)))


def _problem(task: DigitTask, question: str, row: str) -> Problem:
    answer, whole = solution(task, question), worked(task, question)
    return Problem(question, answer, f"digits/{task}", row, {} if whole == answer else {WORKED: whole})


def _draw(task: DigitTask, digits: int, generator: np.random.Generator) -> str:
    if task == "addition":
        return f"{_number(digits, generator)}+{_number(digits, generator)}="
    return "".join(map(str, generator.integers(0, FEW if task == "repeated_sum" else 10, size=digits))) + "="


def _number(digits: int, generator: np.random.Generator) -> str:
    head, tail = generator.integers(1, 10), generator.integers(0, 10, size=digits - 1)
    return "".join(map(str, (head, *tail)))
