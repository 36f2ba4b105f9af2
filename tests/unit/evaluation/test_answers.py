"""What an interrupted evaluation finds again."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.errors import DataError, UsageError
from actors.types import Outcome
from services.evaluation.answers import Answered, AnswerLog, Header, Sample

HEADER = Header("paper", "d" * 64, 12, "w" * 64)


def answered(row: str, text: str = "42") -> Answered:
    return Answered("amc", row, (Sample(text, Outcome.RIGHT, 1.0, "stop", 2), Sample("", Outcome.TIMEOUT, 0.0, "length", 9)), 0.5)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "evaluations" / "paper" / "step-12.jsonl"


def test_answers_come_back_whole(path: Path) -> None:
    with AnswerLog(path, HEADER) as log:
        log.append(answered("a#1", "line\nbreak \ud800 \u2028"))
        log.append(answered("a#2"))
    with AnswerLog(path, HEADER) as log:
        assert log.answered == {("amc", "a#1"): answered("a#1", "line\nbreak \ud800 \u2028"), ("amc", "a#2"): answered("a#2")}


@pytest.mark.parametrize("cut", [1, 40, 200])
def test_a_torn_last_line_is_dropped_and_the_file_goes_on(path: Path, cut: int) -> None:
    with AnswerLog(path, HEADER) as log:
        log.append(answered("a#1"))
        log.append(answered("a#2"))
    path.write_bytes(path.read_bytes()[:-cut])
    with AnswerLog(path, HEADER) as log:
        assert list(log.answered) == [("amc", "a#1")]
        log.append(answered("a#2"))
    with AnswerLog(path, HEADER) as log:
        assert list(log.answered) == [("amc", "a#1"), ("amc", "a#2")]


def test_a_torn_header_begins_the_file_again(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_text('{"suite": "pa')
    with AnswerLog(path, HEADER) as log:
        assert log.answered == {}
    with AnswerLog(path, HEADER) as log:
        assert log.answered == {}


@pytest.mark.parametrize("other", [Header("paper", "e" * 64, 12, "w" * 64), Header("paper", "d" * 64, 12, "v" * 64)])
def test_answers_to_another_suite_or_of_other_weights_are_moved_aside(path: Path, other: Header) -> None:
    with AnswerLog(path, HEADER) as log:
        log.append(answered("a#1"))
    with AnswerLog(path, other) as log:
        assert log.answered == {}
    assert [aside.name for aside in path.parent.iterdir() if aside != path] == [f"step-12.{'d' * 12}.{'w' * 12}.jsonl"]


def test_two_processes_do_not_write_the_same_evaluation(path: Path) -> None:
    with AnswerLog(path, HEADER), pytest.raises(UsageError, match="another process is at this evaluation"):
        AnswerLog(path, HEADER)
    AnswerLog(path, HEADER).close()


@pytest.mark.parametrize("line", ["not JSON", "[]", '{"set": "amc"}', '{"set": "amc", "row": "a", "seconds": 1, "samples": [{}]}'])
def test_a_whole_line_that_is_no_answer_is_named(path: Path, line: str) -> None:
    with AnswerLog(path, HEADER) as log:
        log.append(answered("a#1"))
    with path.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(DataError, match=r"step-12\.jsonl: line 3"):
        AnswerLog(path, HEADER)
