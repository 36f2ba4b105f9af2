r"""Is a response right? Pure functions, one per kind of task, behind `verify`.

    math              last `\boxed{}`: equal as text, as a number, or to math-verify
    gsm8k             number after the last `####`; or else in the last `\boxed{}`; or else the last number
    arithmetic        number in the last `\boxed{}`; or else the last number
    exact, digits/*   the stripped response; of digits/repeated_sum, what comes after the last `#`
    reasoning_gym/*   the task's own scorer; partial scores are kept
    code/python       the last Python block, run against tests of standard input and output
    format/boxed      exactly one filled `\boxed{}`
    format/think      one `<think>...</think>` at the start, then something
    format/think_boxed  both

Nothing here has a deadline: a response can make the symbolic comparison run for hours. Runs belong in the pool's children.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import Any

from actors.errors import ConfigError
from actors.reward import answers, code, gym, symbolic
from actors.reward.jail import Jail
from actors.types import Answer, Outcome, Verdict

CODE = "code/python"
_GYM = "reasoning_gym/"
_CLOSE = Decimal("1e-6")
_CLOSE_SHARE = Decimal("1e-3")


def verify(
    task: str,
    response: str,
    answer: Answer,
    *,
    columns: Mapping[str, Any] | None = None,
    programs: Callable[[], Jail] = code.default_jail,
) -> Verdict:
    """Grade one response to a prompt of `task`; of a list of answers any one is right (of code/python, all are tests to pass).

    `columns` are the other columns of the prompt's row; reasoning-gym's tasks need `entry`. `programs` gives the jail in which code is
    run. Raises ConfigError for a task that nobody verifies; ask `known` before a run.
    """
    if task == CODE:
        return code.grade(response, answer, programs())
    if task.startswith(_GYM):
        return _gym(task.removeprefix(_GYM), response, (columns or {}).get("entry"))
    verifier = _VERIFIERS.get(task, _exact if task.startswith("digits/") else None)
    if verifier is None:
        raise ConfigError(f"no verifier for task {task!r}; known: {', '.join(sorted([*_VERIFIERS, CODE]))}, digits/*, {_GYM}*")
    return verifier(response, answer)


def known(task: str) -> bool:
    """Whether `verify` has a verifier for the task."""
    if task.startswith(_GYM):
        return gym.known(task.removeprefix(_GYM))
    return task in _VERIFIERS or task == CODE or task.startswith("digits/")


def takes(task: str, answer: Any) -> bool:
    """Whether `verify` can grade responses by this answer: text, a number, a list of them; for code, a set of tests."""
    if task == CODE:
        return code.holds_tests(answer)
    return _is_scalar(answer) or (isinstance(answer, list) and all(map(_is_scalar, answer)))


def _is_scalar(value: Any) -> bool:
    if isinstance(value, str):
        return bool(value.strip())
    return isinstance(value, int | float) and not isinstance(value, bool)


def warm(tasks: Iterable[str], programs: Callable[[], Jail] = code.default_jail) -> None:
    """Import what these tasks need, so that no response's deadline pays for it. Raises ConfigError if code is to be run and cannot be."""
    for task in tasks:
        if task == "math":
            symbolic.warm()
        elif task == CODE:
            programs()
        elif task.startswith(_GYM):
            gym.warm(task.removeprefix(_GYM))


def _verdict(right: bool, extracted: str | None) -> Verdict:
    return Verdict(float(right), Outcome.RIGHT if right else Outcome.WRONG, extracted)


def _math(response: str, answer: Answer) -> Verdict:
    given = answers.last_boxed(response)
    if given is None:
        return Verdict(0.0, Outcome.UNPARSEABLE)
    golds = [answers.last_boxed(gold) or gold for gold in answers.gold_texts(answer)]
    plain = answers.canonical(given)
    if any(answers.canonical(gold) == plain for gold in golds):
        return _verdict(True, given)
    judged = [_equal(gold, given, plain) for gold in golds]
    if any(judged):
        return _verdict(True, given)
    return _verdict(False, given) if False in judged else Verdict(0.0, Outcome.UNPARSEABLE, given)


def _equal(gold: str, given: str, plain: str) -> bool | None:
    """Equality of two answers; two plain numbers, the common case, are compared without the symbolic library."""
    left, right = answers.plain_number(answers.canonical(gold)), answers.plain_number(plain)
    if left is not None and right is not None:
        # The share keeps numbers apart that are themselves smaller than what counts as close.
        return left == right or (left != left.to_integral_value() and abs(left - right) < min(_CLOSE, _CLOSE_SHARE * abs(left)))
    return symbolic.equal(answers.written_out(gold), answers.written_out(given))


def _gsm8k(response: str, answer: Answer) -> Verdict:
    marked = [found for piece in response.split("####")[1:] if (found := answers.numbers(piece.partition("\n")[0]))]
    found = marked[-1][:1] if marked else _final_number(response)
    golds = [answers.numbers(gold.rpartition("####")[2])[-1:] for gold in answers.gold_texts(answer)]
    return _numeric(found, golds)


def _arithmetic(response: str, answer: Answer) -> Verdict:
    return _numeric(_final_number(response), [answers.numbers(gold)[-1:] for gold in answers.gold_texts(answer)])


def _final_number(response: str) -> list[Decimal]:
    boxed = answers.last_boxed(response)
    return answers.numbers(answers.canonical(boxed) if boxed else response)[-1:]


def _numeric(found: list[Decimal], golds: list[list[Decimal]]) -> Verdict:
    if not found:
        return Verdict(0.0, Outcome.UNPARSEABLE)
    return _verdict(found in golds, str(found[0])[:200])


def _exact(response: str, answer: Answer) -> Verdict:
    given = response.strip()
    return _verdict(given in [gold.strip() for gold in answers.gold_texts(answer)], given)


def _gym(name: str, response: str, entry: Any) -> Verdict:
    given = gym.extract(response)
    score = gym.score(name, given, entry)
    if score is None:
        return Verdict(0.0, Outcome.UNPARSEABLE, given)
    return Verdict(score, Outcome.RIGHT if score >= 1.0 else Outcome.WRONG, given)


def _worked(response: str, answer: Answer) -> Verdict:
    """Only the last mark counts, so that there is one guess; without any there is no answer, however the working ends."""
    _, mark, given = response.rpartition("#")
    return _exact(given, answer) if mark else Verdict(0.0, Outcome.UNPARSEABLE)


def _boxed(response: str, answer: Answer) -> Verdict:
    return _verdict(answers.count_boxed(response) == 1 and answers.last_boxed(response) is not None, None)


def _think(response: str, answer: Answer) -> Verdict:
    thought, closed, rest = response.strip().partition("</think>")
    once = response.count("<think>") == 1 and response.count("</think>") == 1
    return _verdict(bool(once and closed and thought.startswith("<think>") and rest.strip()), None)


def _think_boxed(response: str, answer: Answer) -> Verdict:
    return _verdict(all(form(response, answer).score for form in (_boxed, _think)), None)


_VERIFIERS: dict[str, Callable[[str, Answer], Verdict]] = {
    "math": _math,
    "gsm8k": _gsm8k,
    "arithmetic": _arithmetic,
    "exact": _exact,
    "digits/repeated_sum": _worked,
    "format/boxed": _boxed,
    "format/think": _think,
    "format/think_boxed": _think_boxed,
}
