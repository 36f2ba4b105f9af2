"""What a source yields: problems, and an account of the rows that did not become one."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple, Self

from actors.types import Answer

Message = dict[str, Any]
"""`{"role": ..., "content": ...}` as chat templates take it."""

Question = str | list[Message]


@dataclass(frozen=True, slots=True)
class Problem:
    """A question with its gold answer, before any template or tokenizer."""

    question: Question
    answer: Answer
    task: str  # names the verifier
    row: str  # where it came from: "file.jsonl#17", counted from 1
    columns: Mapping[str, Any] = field(default_factory=dict)  # what else the row holds, as JSON knows values


class Reason(StrEnum):
    """Why a row is not trained on."""

    NOT_JSON = "not JSON"
    NOT_AN_OBJECT = "not an object with columns"
    NO_QUESTION = "no question"
    BAD_QUESTION = "the question is neither text nor text messages that end before the answer"
    NO_ANSWER = "no answer"
    BAD_ANSWER = "the answer is not one that the task's verifier knows (text, a number, a list of them; for code/python a list of tests)"
    NO_TASK = "the task column holds no name"
    BAD_TEXT = "text that is not valid Unicode"
    UNRENDERABLE = "the template does not take its messages"
    TOO_LONG = "longer than max_tokens"
    HELD_OUT = "the same question as a held-out problem"


class Rejection(NamedTuple):
    """One row that was left out."""

    reason: Reason
    row: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """Rows that were left out, by reason: what a run reports before it starts."""

    rows: Mapping[Reason, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, rejections: Iterable[Rejection]) -> Self:
        """Groups rejections by reason, rows in the order they came."""
        rows: defaultdict[Reason, list[str]] = defaultdict(list)
        for reason, row in rejections:
            rows[reason].append(row)
        return cls({reason: tuple(names) for reason, names in rows.items()})

    @property
    def count(self) -> int:
        """How many rows were left out."""
        return sum(len(names) for names in self.rows.values())

    def describe(self, examples: int = 3) -> str:
        """One line for people, the most frequent reason first, naming a few rows of each; all of them are in `rows`."""
        if not self.rows:
            return "no row left out"
        parts = []
        for reason, names in sorted(self.rows.items(), key=lambda item: -len(item[1])):
            more = ", ..." if len(names) > examples else ""
            parts.append(f"{reason}: {len(names)} ({', '.join(names[:examples])}{more})")
        noun = "row" if self.count == 1 else "rows"
        return f"{self.count} {noun} left out; " + "; ".join(parts)


def question_digest(question: Question) -> bytes:
    """Names a question by its text, so that one found in two files, or once as text and once as a message, is known as the same."""
    if not isinstance(question, str) and len(question) == 1:
        question = question[0]["content"]
    text = question.strip() if isinstance(question, str) else json.dumps(question, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
