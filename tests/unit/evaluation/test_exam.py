"""What a suite becomes for one version: prompts, grading, and a digest of all that matters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from actors.errors import ConfigError, DataError
from actors.modeling.loading import load_tokenizer
from actors.prompts.stream import open_stream
from services.config import Recipe
from services.evaluation.exam import Exam, open_exam
from services.evaluation.suites import load_suite


def rows(path: Path, *values: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return path


def opened(suite: str, recipe: Recipe, version: Path, data: Path, *overrides: str) -> Exam:
    return open_exam(load_suite(suite, [*overrides, "name=other"] if overrides else []), recipe, version, data)


def test_the_held_out_suite_asks_what_the_run_asks(recipe: Recipe, version: Path, tmp_path: Path) -> None:
    exam = opened("held_out", recipe, version, tmp_path)
    theirs = open_stream(recipe.prompts, load_tokenizer(str(version)), seed=recipe.run.seed).held_out()
    ours = exam.sets["held_out"].prompts
    assert len(ours) == 8
    assert [(prompt.text, prompt.answer, prompt.task) for prompt in ours] == [(one.text, one.answer, one.task) for one in theirs]
    assert (exam.sampling.max_tokens, exam.sampling.temperature, exam.reward) == (16, 0.0, recipe.reward)


def test_the_papers_suite_reads_every_shape_of_answer_that_its_sets_have(recipe: Recipe, version: Path, tmp_path: Path) -> None:
    question = {"problem": "How long?"}
    rows(tmp_path / "aime24.jsonl", question | {"answer": "025"})
    rows(tmp_path / "amc.jsonl", question | {"answer": 142.0})
    rows(tmp_path / "math500.jsonl", question | {"answer": r"\frac{1}{2}"})
    rows(tmp_path / "minerva.jsonl", question | {"answer": ["4.5e33\n"]}, question | {"answer": ["1.6 \\times 10^{3}", "1600"]})
    rows(tmp_path / "olympiadbench.jsonl", question | {"answer": ["$2$", "$-1$"]}, question | {"answer": []})
    exam = opened("paper", recipe, version, tmp_path)
    assert {name: len(chosen.prompts) for name, chosen in exam.sets.items()} == {
        "aime24": 1,
        "amc": 1,
        "math500": 1,
        "minerva": 2,
        "olympiadbench": 1,
    }
    assert exam.sets["olympiadbench"].left_out.count == 1
    assert exam.sets["minerva"].prompts[1].answer == ["1.6 \\times 10^{3}", "1600"]
    assert exam.sets["amc"].prompts[0].text.startswith("<|im_start|>system\nPlease reason step by step")
    assert (exam.tasks, exam.context, exam.sampling.max_tokens) == (["math"], 4096, 3000)


def test_a_system_message_belongs_to_the_runs_own_way_of_asking(recipe: Recipe, version: Path, tmp_path: Path) -> None:
    rows(tmp_path / "one.jsonl", {"problem": "1+1=", "answer": "2"})
    asking = recipe.prompts.model_copy(update={"system": "Be brief. "})
    briefly = recipe.model_copy(update={"prompts": asking})
    path = str(tmp_path / "one.jsonl")
    assert opened(path, briefly, version, tmp_path).sets["one"].prompts[0].text == "Be brief. 1+1="
    assert opened(path, briefly, version, tmp_path, "template=plain").sets["one"].prompts[0].text == "1+1="


def test_the_digest_changes_with_all_that_answers_depend_on_and_nothing_else(recipe: Recipe, version: Path, tmp_path: Path) -> None:
    path = str(rows(tmp_path / "sums.jsonl", {"problem": "1+1=", "answer": "2"}, {"problem": "2+2=", "answer": "4"}))
    sampled = ("samples=4", "temperature=1")
    digests = [
        opened(path, recipe, version, tmp_path, *overrides).digest
        for overrides in (sampled, (*sampled, "seed=1"), (*sampled, "limit=1"), (*sampled, "max_tokens=9"), ("samples=5", "temperature=1"))
    ]
    assert len(set(digests)) == len(digests)
    assert opened(path, recipe, version, tmp_path, *sampled, "pass_at=[2]").digest == digests[0]
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    (tmp_path / "sums.jsonl").rename(moved / "sums.jsonl")
    assert opened(str(moved / "sums.jsonl"), recipe, version, tmp_path, *sampled).digest == digests[0]
    rows(moved / "sums.jsonl", {"problem": "1+1=", "answer": "2"}, {"problem": "2+2=", "answer": "5"})
    assert opened(str(moved / "sums.jsonl"), recipe, version, tmp_path, *sampled).digest != digests[0]


def test_problems_that_cannot_be_had_or_graded_are_refused(recipe: Recipe, version: Path, tmp_path: Path) -> None:
    rows(tmp_path / "empty.jsonl", {"problem": "1+1=", "answer": ""})
    with pytest.raises(DataError, match=r"no usable problem in .*: 1 row left out; no answer"):
        opened(str(tmp_path / "empty.jsonl"), recipe, version, tmp_path)
    suite = tmp_path / "odd.yaml"
    suite.write_text("sets: {a: {task: maths, source: {type: file, path: one.jsonl}}}\n")
    rows(tmp_path / "one.jsonl", {"problem": "1+1=", "answer": "2"})
    with pytest.raises(ConfigError, match="set a: no verifier is called 'maths'"):
        opened(str(suite), recipe, version, tmp_path)


def test_reasoning_gym_problems_bring_the_entry_that_their_scorer_needs(recipe: Recipe, version: Path, tmp_path: Path) -> None:
    exam = opened("reasoning_gym/chain_sum", recipe, version, tmp_path, "limit=3")
    prompts = exam.sets["chain_sum"].prompts
    assert len(prompts) == 3 and all("entry" in prompt.columns for prompt in prompts)
    assert exam.tasks == ["reasoning_gym/chain_sum"]
