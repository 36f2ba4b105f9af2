"""Does a program print what it should? Grades the last Python block of a response by tests of standard input and output."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from actors.errors import VerifierError
from actors.reward import jail
from actors.reward.config import RewardConfig
from actors.reward.jail import Jail
from actors.types import Answer, Outcome, Verdict

_OPENINGS = frozenset({"```python", "```python3", "```py"})


class Case(NamedTuple):
    """What a program is given and what it must print."""

    stdin: str
    stdout: str


@lru_cache(maxsize=1)
def default_jail() -> Jail:
    """The jail of a default recipe, for calls from outside a run."""
    return jail.build(RewardConfig())


def grade(response: str, answer: Answer, jail: Jail) -> Verdict:
    """Run the tests in order, within one allowance of CPU and of time; right if all pass, and without `fraction` 0 at the first that fails.

    A test passes if the program ends with status 0 and prints the expected lines, white space at their ends and at the end of all aside.
    A program that fails, waits, floods or takes more than it may is wrong: it did so itself. TIMEOUT only where the machine was too busy to
    run it. Raises VerifierError if the answer holds no tests or the jail fails.
    """
    program = last_block(response)
    if program is None:
        return Verdict(0.0, Outcome.UNPARSEABLE)
    tests = parse(answer)
    until, cpu_s, passed = time.monotonic() + jail.wall_s, jail.cpu_s, 0
    for test in tests:
        run = jail.run(program, test.stdin, cpu_s=cpu_s, until=until)
        if run.starved:
            return Verdict(0.0, Outcome.TIMEOUT, program)
        cpu_s -= run.cpu_s
        good = run.status == 0 and _lines(run.stdout.decode("utf-8", "replace")) == _lines(test.stdout)
        passed += good
        if cpu_s <= 0 or run.status is None or not (good or jail.fraction):
            break
    score = passed / len(tests) if jail.fraction else float(passed == len(tests))
    return Verdict(score, Outcome.RIGHT if passed == len(tests) else Outcome.WRONG, program)


def last_block(text: str) -> str | None:
    """The last closed block that is fenced as Python; None if there is none, or it is empty."""
    block: list[str] = []
    lines: list[str] | None = None
    for line in text.split("\n"):
        fence = line.strip().lower()
        if fence in _OPENINGS:
            lines = []
        elif lines is not None and fence == "```":
            block, lines = lines, None
        elif lines is not None:
            lines.append(line)
    return "\n".join(block) + "\n" if any(line.strip() for line in block) else None


def holds_tests(answer: Answer) -> bool:
    """Whether `parse` finds tests in an answer."""
    try:
        return bool(parse(answer))
    except VerifierError:
        return False


def parse(answer: Answer) -> list[Case]:
    """The tests in a prompt's answer: a list, or JSON of one, of {"stdin": ..., "stdout": ...} or of pairs [input, output]."""
    try:
        entries = json.loads(answer) if isinstance(answer, str) else answer
    except ValueError:
        entries = None
    tests = [test for entry in entries if (test := _test(entry))] if isinstance(entries, Sequence) else []
    if not isinstance(entries, Sequence) or not tests or len(tests) != len(entries):
        raise VerifierError('code/python: the answer must be a list of tests, each {"stdin": text, "stdout": text} or [input, output]')
    return tests


def _test(entry: object) -> Case | None:
    match entry:
        case {"stdin": str(stdin), "stdout": str(stdout), **rest} if not rest:
            return Case(stdin, stdout)
        case [str(stdin), str(stdout)]:
            return Case(stdin, stdout)
    return None


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().split("\n")]
