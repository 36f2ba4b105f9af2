from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets  # type: ignore[import-untyped]
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
import reasoning_gym  # type: ignore[import-untyped]

from actors.errors import ConfigError, DataError
from actors.prompts.config import FileSource, HubSource, PromptsConfig, ReasoningGymSource
from actors.prompts.problems import Reason, Rejected
from actors.prompts.sources import check, load

ROWS = [{"problem": f"What is {n}+{n}?", "answer": str(2 * n), "level": n} for n in range(5)]


def write(path: Path, text: str) -> FileSource:
    path.write_text(text, encoding="utf-8")
    return FileSource(path=str(path))


def write_lines(path: Path, rows: list[Any]) -> FileSource:
    return write(path, "".join(json.dumps(row) + "\n" for row in rows))


def test_the_same_rows_come_out_of_every_format(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "rows.parquet")
    sources = [
        write_lines(tmp_path / "rows.jsonl", ROWS),
        write(tmp_path / "rows.json", json.dumps(ROWS, indent=2)),
        write_lines(tmp_path / "lines.json", ROWS),
        write(tmp_path / "bom.json", "\ufeff" + json.dumps(ROWS)),
        FileSource(path=str(tmp_path / "rows.parquet")),
        FileSource(path=(tmp_path / "rows.parquet").as_uri()),
    ]
    for source in sources:
        problems, rejections = load(source)
        assert [(p.question, p.answer, p.columns["level"]) for p in problems] == [(r["problem"], r["answer"], r["level"]) for r in ROWS]
        assert rejections == []


def test_verl_parquet_with_nested_columns(tmp_path: Path) -> None:
    row = {
        "prompt": [{"role": "user", "content": "2+2?"}],
        "reward_model": {"style": "rule", "ground_truth": "4"},
        "data_source": "openai/gsm8k",
    }
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "train.parquet")
    [problem], _ = load(FileSource(path=str(tmp_path / "train.parquet")))
    assert (problem.question, problem.answer, problem.task) == (row["prompt"], "4", "gsm8k")


def test_rows_are_named_by_line_and_bad_ones_reported(tmp_path: Path) -> None:
    good = json.dumps(ROWS[0], ensure_ascii=False)
    separator = json.dumps({"problem": "one line\u2028all the same", "answer": "1"}, ensure_ascii=False)
    source = write(tmp_path / "rows.jsonl", f"{good}\n\n{{broken\n[1]\n{separator}\n{json.dumps({'problem': '?'})}\n{good[:-1]}")
    problems, rejections = load(source)
    assert [problem.row for problem in problems] == ["rows.jsonl#1", "rows.jsonl#5"]
    rejected = Rejected.of(rejections)
    assert rejected.rows == {
        Reason.NOT_JSON: ("rows.jsonl#3", "rows.jsonl#7"),
        Reason.NOT_AN_OBJECT: ("rows.jsonl#4",),
        Reason.NO_ANSWER: ("rows.jsonl#6",),
    }
    assert rejected.count == 4
    assert rejected.describe(examples=1) == (
        "4 rows left out; not JSON: 2 (rows.jsonl#3, ...); not an object with columns: 1 (rows.jsonl#4); no answer: 1 (rows.jsonl#6)"
    )


def test_rows_of_files_with_one_name_can_be_told_apart(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    paths = [write_lines(tmp_path / folder / "train.jsonl", ROWS[:1]).paths[0] for folder in "ab"]
    problems, _ = load(FileSource(path=tuple(paths)))
    assert [problem.row for problem in problems] == [f"{path}#1" for path in paths]


@pytest.mark.parametrize("text", ['[{"problem": "unfinished"', "[1] and more"])
def test_a_broken_array_is_an_error_that_names_the_file(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError, match=r"rows\.json is neither JSON nor Parquet"):
        load(write(tmp_path / "rows.json", text))


def test_bytes_that_are_no_text_are_an_error_that_names_the_file(tmp_path: Path) -> None:
    for name, content in {"image.jsonl": b"\x89PNG\xff", "cut.parquet": b"PAR1 and no more"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=name):
            load(FileSource(path=str(tmp_path / name)))


def test_check_names_every_missing_file(tmp_path: Path) -> None:
    present = write_lines(tmp_path / "here.jsonl", ROWS).paths[0]
    absent, folder = str(tmp_path / "absent.jsonl"), str(tmp_path)
    remote = (tmp_path / "remote.jsonl").as_uri()
    check(PromptsConfig(source=FileSource(path=present)))
    with pytest.raises(DataError) as caught:
        check(PromptsConfig(source=FileSource(path=(present, absent, folder, remote))))
    assert str(caught.value) == f"prompts: no such file: {absent}, {folder}, {remote}"
    with pytest.raises(DataError, match="absent"):
        check(PromptsConfig(source=FileSource(path=present), held_out=1, held_out_source=FileSource(path=absent)))
    with pytest.raises(DataError, match="absent"):
        load(FileSource(path=absent))


def test_an_unknown_scheme_is_an_error_that_names_the_path() -> None:
    with pytest.raises(DataError, match="gopher://rows"):
        check(PromptsConfig(source=FileSource(path="gopher://rows")))


REVISION = "e53f048856ff4f594e959d75785d2c2d37b678ee"


def test_a_hub_source_asks_for_exactly_what_it_names(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load_dataset(path: str, **options: Any) -> datasets.Dataset:
        asked.append((path, options))
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    problems, _ = load(HubSource(id="openai/gsm8k:main@train", revision=REVISION))
    assert asked == [("openai/gsm8k", {"name": "main", "split": "train", "revision": REVISION})]
    assert (problems[4].question, problems[4].row) == ("What is 4+4?", "openai/gsm8k:main@train#5")


def test_a_hub_that_cannot_be_reached_is_a_data_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(path: str, **options: Any) -> datasets.Dataset:
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(DataError, match=r"openai/gsm8k@test.*no network"):
        load(HubSource(id="openai/gsm8k@test", revision=REVISION))


@pytest.mark.parametrize("task", ["chain_sum", "countdown", "leg_counting", "sudoku"])
def test_reasoning_gym_problems_can_be_graded_after_their_journey(task: str) -> None:
    problems, rejections = load(ReasoningGymSource(task=task, size=4))
    assert len(problems) == 4 and rejections == []
    score = reasoning_gym.get_score_answer_fn(task)
    for problem in problems:
        entry = json.loads(json.dumps(problem.columns))["entry"]
        assert problem.task == f"reasoning_gym/{task}" and problem.question == entry["question"]
        assert score(str(problem.answer), entry) == 1.0
        assert score("certainly not this", entry) < 1.0


def test_reasoning_gym_tasks_without_a_gold_answer_keep_their_entry() -> None:
    [problem], _ = load(ReasoningGymSource(task="rush_hour", size=1))
    assert problem.answer == "" and problem.columns["entry"]["answer"] is None


def test_reasoning_gym_problems_depend_on_the_options_only() -> None:
    def questions(**options: Any) -> list[Any]:
        return [problem.question for problem in load(ReasoningGymSource(task="chain_sum", size=5, options=options))[0]]

    assert questions() == questions(seed=0) != questions(seed=1)
    assert all(question.count("+") + question.count("-") >= 1 for question in questions(min_terms=2, max_terms=2))


def test_reasoning_gym_mistakes_name_their_field() -> None:
    with pytest.raises(ConfigError, match=r"prompts\.source\.task.*did you mean chain_sum"):
        check(PromptsConfig(source=ReasoningGymSource(task="chain_sun")))
    with pytest.raises(ConfigError, match=r"prompts\.source\.options.*min_termz"):
        check(PromptsConfig(source=ReasoningGymSource(task="chain_sum", options={"min_termz": 2})))
    with pytest.raises(ConfigError, match="cannot grade an entry sent as JSON"):
        load(ReasoningGymSource(task="rearc", size=1))
