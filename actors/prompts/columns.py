"""From the columns of a row, whatever their names, to a problem.

The ecosystem's names are known: `prompt | question | problem` (text or messages), `answer | solution | reward_model.ground_truth`
(verl nests it), `data_source`. The first of them that is not null is taken; `Columns` overrides them.

The task, which names the verifier, is by the first of these rules that applies:

1. the column that `Columns.task` names;
2. `prompts.task` of the recipe;
3. "gsm8k", where `data_source` contains that word or the answer has a line `#### N`, as GSM8K's worked solutions end;
4. "math", for everything else: a wrong guess grades wrong answers as wrong, so a recipe for another kind of data sets `prompts.task`.

Answers stay as the row has them, GSM8K's worked solution included: the verifier finds the number in it.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Mapping
from typing import Any

from actors.prompts.config import Columns
from actors.prompts.problems import Problem, Question, Reason
from actors.reward.verifiers import takes

QUESTIONS = ("prompt", "question", "problem")
ANSWERS = ("answer", "solution", "reward_model.ground_truth")

_GSM8K_ANSWER = re.compile(r"^####\s*\S", re.MULTILINE)
_SURROGATE = re.compile("[\ud800-\udfff]")


def read_problem(value: object, *, name: str, columns: Columns, task: str | None) -> Problem | Reason:
    """The problem in a row, or the reason why there is none; `name` is the row's, for provenance."""
    if not isinstance(value, Mapping):
        return Reason.NOT_AN_OBJECT
    row: dict[str, Any] = json_able(value)
    if not _is_unicode(row):
        return Reason.BAD_TEXT
    where, question = _first(row, (columns.question,) if columns.question else QUESTIONS)
    question = _checked_question(question)
    if isinstance(question, Reason):
        return question
    answer = _first(row, (columns.answer,) if columns.answer else ANSWERS)[1]
    if answer is None or answer == [] or (isinstance(answer, str) and not answer.strip()):
        return Reason.NO_ANSWER
    named = _task(row, answer, column=columns.task, default=task)
    if isinstance(named, Reason):
        return named
    if not takes(named, answer):
        return Reason.BAD_ANSWER
    rest = {key: value for key, value in row.items() if key != where}
    return Problem(question=question, answer=answer, task=named, row=name, columns=rest)


def _first(row: Mapping[str, Any], paths: tuple[str, ...]) -> tuple[str | None, Any]:
    """(path, value) of the first path that is not null."""
    for path in paths:
        value = _lookup(row, path)
        if value is not None:
            return path, value
    return None, None


def _lookup(row: Mapping[str, Any], path: str) -> Any:
    if path in row:
        return row[path]
    value: Any = row
    for key in path.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(key)
    return value


def _checked_question(value: Any) -> Question | Reason:
    if value is None or value == [] or (isinstance(value, str) and not value.strip()):
        return Reason.NO_QUESTION
    if isinstance(value, str):
        return value
    # A conversation that ends with the assistant's words would show the policy the answer.
    if isinstance(value, list) and all(map(_is_message, value)) and value[-1]["role"] != "assistant":
        return value
    return Reason.BAD_QUESTION


def _is_message(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("role"), str):
        return False
    content = value.get("content")
    return isinstance(content, str) and bool(content.strip())


def _task(row: Mapping[str, Any], answer: Any, *, column: str | None, default: str | None) -> str | Reason:
    if column is not None:
        value = _lookup(row, column)
        return value if isinstance(value, str) and value.strip() else Reason.NO_TASK
    if default is not None:
        return default
    if "gsm8k" in str(row.get("data_source", "")).lower():
        return "gsm8k"
    return "gsm8k" if isinstance(answer, str) and _GSM8K_ANSWER.search(answer) else "math"


def json_able(value: Any) -> Any:
    """The same value out of what JSON knows. Numbers that are not finite become null, bytes base64, dates and the like their text."""
    match value:
        case None | bool() | str() | int():
            return value
        case float():
            return value if math.isfinite(value) else None
        case Mapping():
            return {str(key): json_able(item) for key, item in value.items()}
        case list() | tuple():
            return [json_able(item) for item in value]
        case bytes():
            return base64.b64encode(value).decode()
    return str(value)


def _is_unicode(value: Any) -> bool:
    """False where a string holds half of a surrogate pair, which JSON can spell but no tokenizer or file can hold."""
    match value:
        case str():
            return _SURROGATE.search(value) is None
        case dict():
            return all(_is_unicode(key) and _is_unicode(item) for key, item in value.items())
        case list():
            return all(map(_is_unicode, value))
    return True
