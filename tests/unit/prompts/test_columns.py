from __future__ import annotations

import datetime
import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.prompts.columns import read_problem
from actors.prompts.config import Columns
from actors.prompts.problems import Problem, Reason

ASK = [{"role": "user", "content": "What is 2+2?"}]


def read(row: Any, *, columns: Columns | None = None, task: str | None = None) -> Problem | Reason:
    return read_problem(row, name="rows#1", columns=columns or Columns(), task=task)


def problem(row: Any, *, columns: Columns | None = None, task: str | None = None) -> Problem:
    found = read(row, columns=columns, task=task)
    assert isinstance(found, Problem), found
    return found


@pytest.mark.parametrize("question", ["prompt", "question", "problem"])
@pytest.mark.parametrize("answer", ["answer", "solution"])
def test_the_usual_names_are_known(question: str, answer: str) -> None:
    found = problem({question: "2+2?", answer: "4"})
    assert (found.question, found.answer, found.row) == ("2+2?", "4", "rows#1")


def test_a_row_as_verl_writes_it() -> None:
    row = {
        "data_source": "openai/gsm8k",
        "prompt": ASK,
        "reward_model": {"style": "rule", "ground_truth": "72"},
        "extra_info": {"index": 3},
    }
    found = problem(row)
    assert (found.question, found.answer, found.task) == (ASK, "72", "gsm8k")
    assert found.columns == {key: value for key, value in row.items() if key != "prompt"}


def test_null_columns_are_passed_over() -> None:
    found = problem({"prompt": None, "problem": "2+2?", "answer": None, "solution": "4"})
    assert (found.question, found.answer) == ("2+2?", "4")


def test_overrides_are_followed_to_the_letter() -> None:
    row = {"prompt": "wrong", "answer": "wrong", "body": {"text": "2+2?"}, "gold": 4, "kind": "exact"}
    found = problem(row, columns=Columns(question="body.text", answer="gold", task="kind"), task="math")
    assert (found.question, found.answer, found.task) == ("2+2?", 4, "exact")
    assert read(row, columns=Columns(question="bodi")) is Reason.NO_QUESTION
    assert read(row, columns=Columns(answer="golt")) is Reason.NO_ANSWER
    assert read(row, columns=Columns(task="knid")) is Reason.NO_TASK


@pytest.mark.parametrize("answer", ["4", 4, 142.0, ["4", "four\n"], [1, 2.5]])
def test_answers_are_kept_as_they_are(answer: Any) -> None:
    kept = problem({"problem": "2+2?", "answer": answer}).answer
    assert kept == answer and type(kept) is type(answer)


@pytest.mark.parametrize(
    ("row", "given_task", "task"),
    [
        ({"answer": "118", "source": "math"}, None, "math"),
        ({"answer": "48/2 = 24 clips in May.\n#### 72"}, None, "gsm8k"),
        ({"answer": "72", "data_source": "openai/gsm8k"}, None, "gsm8k"),
        ({"answer": "72", "data_source": "HuggingFaceH4/MATH-500"}, None, "math"),
        ({"answer": "a #### b"}, None, "math"),
        ({"answer": "#### 72", "data_source": "openai/gsm8k"}, "my.module:score", "my.module:score"),
    ],
)
def test_the_task_is_told_hinted_or_math(row: dict[str, Any], given_task: str | None, task: str) -> None:
    assert problem({"question": "?", **row}, task=given_task).task == task


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("just text", Reason.NOT_AN_OBJECT),
        ({"answer": "4"}, Reason.NO_QUESTION),
        ({"prompt": " \n", "answer": "4"}, Reason.NO_QUESTION),
        ({"prompt": [], "answer": "4"}, Reason.NO_QUESTION),
        ({"prompt": 17, "answer": "4"}, Reason.BAD_QUESTION),
        ({"prompt": ["2+2?"], "answer": "4"}, Reason.BAD_QUESTION),
        ({"prompt": [{"role": "user", "content": None}], "answer": "4"}, Reason.BAD_QUESTION),
        ({"prompt": [{"role": "user", "content": [{"type": "image"}]}], "answer": "4"}, Reason.BAD_QUESTION),
        ({"prompt": [*ASK, {"role": "assistant", "content": "4"}], "answer": "4"}, Reason.BAD_QUESTION),
        ({"prompt": "2+2?"}, Reason.NO_ANSWER),
        ({"prompt": "2+2?", "answer": ""}, Reason.NO_ANSWER),
        ({"prompt": "2+2?", "answer": []}, Reason.NO_ANSWER),
        ({"prompt": "2+2?", "answer": float("nan")}, Reason.NO_ANSWER),
        ({"prompt": "2+2?", "answer": True}, Reason.BAD_ANSWER),
        ({"prompt": "2+2?", "answer": {"value": 4}}, Reason.BAD_ANSWER),
        ({"prompt": "2+2?", "answer": ["4", None]}, Reason.BAD_ANSWER),
        ({"prompt": "2+2?", "answer": [["1", "2"]]}, Reason.BAD_ANSWER),
        ({"prompt": "half a pair: \ud83d", "answer": "4"}, Reason.BAD_TEXT),
        ({"prompt": "2+2?", "answer": "4", "note": ["\udc00"]}, Reason.BAD_TEXT),
    ],
)
def test_malformed_rows_are_named_by_what_is_wrong(row: Any, reason: Reason) -> None:
    assert read(row) is reason


@pytest.mark.parametrize("tests", [[["1", "2"]], [{"stdin": "1", "stdout": "2"}], '[["1", "2"]]'])
def test_a_programs_answer_is_its_tests(tests: Any) -> None:
    assert problem({"question": "double it", "answer": tests}, task="code/python").answer == tests


@pytest.mark.parametrize("no_tests", ["hello", "[]", [["1"]], [["1", 2]], 17, {"stdin": "", "stdout": ""}])
def test_a_programs_answer_without_tests_is_left_out(no_tests: Any) -> None:
    assert read({"question": "double it", "answer": no_tests}, task="code/python") is Reason.BAD_ANSWER


def test_columns_become_what_json_knows() -> None:
    row = {"day": datetime.date(2025, 7, 28), "share": Decimal("0.5"), "image": b"\x00\xff", "pair": (1, float("inf")), 3: "three"}
    found = problem({"problem": "?", "answer": "4", **row})
    assert found.columns == {"answer": "4", "day": "2025-07-28", "share": "0.5", "image": "AP8=", "pair": [1, None], "3": "three"}


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.binary(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "content", "ground_truth", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)
NAMES = ["prompt", "question", "problem", "answer", "solution", "reward_model", "data_source"]


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES), anything, max_size=5) | anything)
def test_any_row_is_a_whole_problem_or_has_a_reason(row: Any) -> None:
    found = read(row)
    if isinstance(found, Problem):
        json.dumps([found.question, found.answer, found.columns], allow_nan=False, ensure_ascii=False).encode()
        assert found.question and found.answer not in (None, "", []) and found.task in ("math", "gsm8k")
