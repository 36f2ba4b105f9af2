"""Which program of a response is run, against which tests, and what it gets for them."""

from __future__ import annotations

import json

import pytest

from actors.errors import ConfigError, VerifierError
from actors.reward import jail
from actors.reward.code import grade, last_block, parse
from actors.reward.config import RewardConfig
from actors.reward.verifiers import known, verify
from actors.types import Answer, Outcome, Verdict

DOUBLE = "print(2 * int(input()))"
TESTS = [{"stdin": "2\n", "stdout": "4\n"}, {"stdin": "-3", "stdout": "-6"}]


def fenced(program: str) -> str:
    return f"Let us see.\n```python\n{program}\n```\nThat is all."


def graded(program: str, tests: Answer | None = None, *, fraction: bool = False) -> Verdict:
    config = RewardConfig.model_validate({"cpu_limit_s": 1, "wall_limit_s": 10, "code": {"fraction": fraction}})
    return grade(fenced(program), TESTS if tests is None else tests, jail.build(config))


@pytest.mark.parametrize(
    ("text", "program"),
    [
        (fenced("a"), "a\n"),
        ("```py\na\n```\n```Python\nb\n  c\n```", "b\n  c\n"),
        ("```python\na\n```\nso\n```python\nb", "a\n"),  # the last one was cut off
        ("```python\na\n```python\nb\n```", "b\n"),
        ("```python\na\n```\n```\n4\n```", "a\n"),
        ("  ```python3  \r\na\r\n  ```\r\n", "a\r\n"),
        ("```\na\n```", None),
        ("```python\n\n```", None),
        ("print(1)", None),
        ("", None),
    ],
)
def test_the_last_closed_python_block_is_the_program(text: str, program: str | None) -> None:
    assert last_block(text) == program


@pytest.mark.parametrize(
    "answer", [TESTS, json.dumps(TESTS), [["2\n", "4\n"], ("-3", "-6")], '[["2\\n", "4\\n"], {"stdin": "-3", "stdout": "-6"}]']
)
def test_tests_are_written_in_any_of_these_ways(answer: Answer) -> None:
    assert parse(answer) == [("2\n", "4\n"), ("-3", "-6")]


@pytest.mark.parametrize(
    "answer", ["5", 5, "", "[]", [], [["2"]], [{"stdin": "2"}], [{"stdin": "2", "stdout": 4}], '{"stdin": ""}', ["ab"]]
)
def test_an_answer_without_tests_is_a_fault_of_the_data(answer: Answer) -> None:
    with pytest.raises(VerifierError, match="list of tests"):
        parse(answer)


def test_a_program_is_right_if_every_test_passes() -> None:
    assert verify("code/python", fenced(DOUBLE), TESTS) == Verdict(1.0, Outcome.RIGHT, DOUBLE + "\n")
    assert verify("code/python", fenced("print(2 + int(input()))"), TESTS).outcome is Outcome.WRONG
    assert verify("code/python", "print(4)", TESTS).outcome is Outcome.UNPARSEABLE
    assert known("code/python") and not known("code/perl")


def test_a_fraction_of_the_tests_may_count() -> None:
    half = "print(2 + int(input()))"  # right for 2 alone
    assert (graded(half, fraction=True).score, graded(half).score) == (0.5, 0.0)
    assert graded(half, fraction=True).outcome is Outcome.WRONG


@pytest.mark.parametrize(
    ("program", "expected", "right"),
    [
        ("print('a  \\nb\\n\\n')", "a\nb", True),
        ("print(' a')", "a", False),
        ("print('a'); raise SystemExit(1)", "a", False),
        ("import sys; print('a'); print('noise', file=sys.stderr)", "a", True),
        ("import math, collections, heapq, re; print(math.gcd(4, 6))", "2", True),
        ("import threading; threading.Thread(target=print, args=['a']).start()", "a", True),
        ("print(__name__)", "__main__", True),
        ("print('\\u00e9')", "é", True),
        ("import os; os.write(1, bytes([255]))", "\ufffd", True),
        ("print('\ud800')", "\ufffd", False),  # not a program: it cannot be encoded
        ("this is no python", "", False),
        ("x = '\x00'", "", False),
    ],
)
def test_what_is_printed_by_a_program_that_ends_well_is_compared_by_lines(program: str, expected: str, right: bool) -> None:
    assert graded(program, [["", expected]]).outcome is (Outcome.RIGHT if right else Outcome.WRONG)


def test_the_allowance_is_for_all_tests_together() -> None:
    """Or a prompt with a hundred tests would hold its child for a hundred times as long."""
    spin = "import time\nwhile time.process_time() < 0.6: pass\nprint()"
    assert graded(spin, [["", ""]]).outcome is Outcome.RIGHT
    assert graded(spin, [["", ""]] * 2).outcome is Outcome.WRONG


def test_without_a_jail_no_code_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jail, "_bubblewraps", lambda: iter(()))
    with pytest.raises(ConfigError, match=r"reward\.code\.isolation.*not installed"):
        jail.build(RewardConfig())
    monkeypatch.setattr(jail, "_bubblewraps", lambda: iter(["/bin/false", "/no/such/bwrap"]))
    with pytest.raises(ConfigError, match=r"reward\.code\.isolation.*false started no program.*/no/such/bwrap"):
        jail.build(RewardConfig())
