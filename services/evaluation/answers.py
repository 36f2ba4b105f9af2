"""The answers of one evaluation, appended as they come, so that an interrupted one goes on where it was.

The first line says what the file's answers are to and from; each further line is one problem with all its samples:

    {"suite": "paper", "digest": "...", "step": 12, "weights": "..."}
    {"set": "aime24", "row": "aime24.jsonl#3", "samples": [{"text": "...", "outcome": "right", ...}], "seconds": 4.2}
"""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from actors.errors import DataError, UsageError
from actors.types import Outcome


@dataclass(frozen=True, slots=True)
class Sample:
    """One graded answer."""

    text: str
    outcome: Outcome
    score: float
    finish_reason: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Answered:
    """One problem, asked and graded."""

    set: str
    row: str
    samples: tuple[Sample, ...]
    seconds: float  # from question to verdict


@dataclass(frozen=True, slots=True)
class Header:
    """Which suite was put to which weights; answers under another header say nothing about these."""

    suite: str
    digest: str
    step: int
    weights: str


class AnswerLog:
    """The open file, locked for the one process that writes to it. A context manager; closing it lets another process in."""

    def __init__(self, path: Path, header: Header) -> None:
        """Read what is there and drop a torn last line. Answers under another header are moved aside, to `<name>.<digest>.jsonl`.

        UsageError if another process is at it; DataError names a whole line that is no answer.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._file = _open(path)
        self.answered: dict[tuple[str, str], Answered] = {}
        """(set, row) -> its answers."""
        try:
            self._recall(header)
        except BaseException:
            self._file.close()
            raise

    def append(self, answered: Answered) -> None:
        """Add a problem's answers; they are the system's before this returns."""
        self._write(asdict(answered))
        self.answered[answered.set, answered.row] = answered

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _recall(self, header: Header) -> None:
        self._file.seek(0)
        content = self._file.read()
        whole = content[: content.rfind(b"\n") + 1]
        self._file.truncate(len(whole))
        lines = whole.splitlines()
        if lines and (found := self._parsed(1, lines[0])) != asdict(header):
            aside = self._path.with_name(f"{self._path.stem}.{str(found.get('digest'))[:12]}.{str(found.get('weights'))[:12]}.jsonl")
            os.replace(self._path, aside)
            self._file.close()
            self._file, lines = _open(self._path), []
        if not lines:
            self._write(asdict(header))
        for number, line in enumerate(lines[1:], start=2):
            self._remember(number, self._parsed(number, line))

    def _remember(self, number: int, fields: dict[str, Any]) -> None:
        try:
            samples = tuple(Sample(**{**sample, "outcome": Outcome(sample["outcome"])}) for sample in fields["samples"])
            answered = Answered(**{**fields, "samples": samples})
        except (KeyError, TypeError, ValueError):
            raise self._damaged(number) from None
        self.answered[answered.set, answered.row] = answered

    def _parsed(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            fields = json.loads(line)
        except ValueError:
            raise self._damaged(number) from None
        if not isinstance(fields, dict):
            raise self._damaged(number)
        return fields

    def _damaged(self, number: int) -> DataError:
        return DataError(f"{self._path}: line {number} is no answer of an evaluation; delete the file to begin again")

    def _write(self, fields: dict[str, Any]) -> None:
        self._file.write(json.dumps(fields).encode() + b"\n")
        self._file.flush()


def _open(path: Path) -> IO[bytes]:
    file = path.open("a+b")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise UsageError(f"{path}: another process is at this evaluation") from None
    return file
