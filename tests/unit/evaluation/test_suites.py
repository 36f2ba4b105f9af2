"""Suites by name and by file, and what is refused before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.errors import ConfigError, DataError
from actors.prompts.config import FileSource, ReasoningGymSource
from services.config import Recipe
from services.evaluation.config import LiveEvaluationConfig
from services.evaluation.suites import built_in, check, load_suite


def test_every_named_suite_loads_under_its_own_name() -> None:
    assert set(built_in()) >= {"paper", "held_out", "gsm8k", "aime24", "amc", "math500"}
    assert all(load_suite(name).name == name for name in built_in())


def test_the_papers_protocol() -> None:
    paper = load_suite("paper")
    assert (paper.template, paper.temperature, paper.samples, paper.max_tokens) == ("qwen_math", 0.0, 1, 3000)
    assert list(paper.sets) == ["aime24", "amc", "math500", "minerva", "olympiadbench"]
    assert {chosen.task for chosen in paper.sets.values()} == {"math"}


def test_any_reasoning_gym_task_is_a_suite() -> None:
    suite = load_suite("reasoning_gym/chain_sum")
    assert suite.name == "reasoning_gym.chain_sum"
    source = suite.sets["chain_sum"].source
    assert isinstance(source, ReasoningGymSource) and (source.task, source.size) == ("chain_sum", 100)


def test_a_file_of_problems_is_a_suite() -> None:
    suite = load_suite("sums/two digits.jsonl")
    assert suite.name == "two_digits"
    assert suite.sets["two_digits"].source == FileSource(path="sums/two digits.jsonl")


def test_a_yaml_file_is_a_suite_named_after_itself(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("samples: 8\ntemperature: 1\npass_at: [8]\nsets: {sums: {source: {type: file, path: sums.jsonl}}}\n")
    suite = load_suite(str(path))
    assert (suite.name, suite.ks, suite.max_tokens) == ("mine", (1, 8), None)


def test_an_overridden_suite_needs_a_name_of_its_own() -> None:
    with pytest.raises(ConfigError, match=r"name=\.\.\."):
        load_suite("paper", ["limit=5"])
    assert load_suite("paper", ["limit=5", "name=paper-5"]).limit == 5


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("sets: {a: {source: {type: file, path: a.jsonl}}}\nsamples: 4\n", "samples: 4 answers at temperature 0"),
        ("sets: {a: {source: {type: file, path: a.jsonl}}}\nsamples: 4\ntemperature: 1\npass_at: [8]\n", "pass_at: pass@8"),
        ("sets: {a: {source: {type: fiel, path: a.jsonl}}}\n", "did you mean file"),
        ("sets: {}\n", "sets"),
        ("sets: {a: {source: {type: file, path: a.jsonl}}}\ntemprature: 1\n", "did you mean temperature"),
        ("name: a/b\nsets: {a: {source: {type: file, path: a.jsonl}}}\n", "name"),
        ("[1, 2]\n", "a mapping"),
        ("a: b: c\n", "not a YAML file"),
    ],
)
def test_a_bad_suite_is_refused_by_the_name_of_the_field(tmp_path: Path, content: str, complaint: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=complaint):
        load_suite(str(path))


def test_an_unknown_suite_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="did you mean math500"):
        load_suite("math-500")


def test_a_missing_file_is_named_before_anything_starts(tmp_path: Path, recipe: Recipe) -> None:
    for name in ("aime24", "amc", "math500", "olympiadbench"):
        (tmp_path / f"{name}.jsonl").touch()
    with pytest.raises(DataError, match=rf"suite paper, set minerva: no such file: {tmp_path}/minerva\.jsonl; --data"):
        check(load_suite("paper"), recipe, tmp_path)


def test_a_suite_that_the_run_or_the_library_has_no_problems_for_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no task 'chain_sun'; did you mean chain_sum"):
        check(load_suite("reasoning_gym/chain_sun"), recipe, tmp_path)
    check(load_suite("held_out"), recipe, tmp_path)
    without = recipe.model_copy(update={"prompts": recipe.prompts.model_copy(update={"held_out": 0})})
    with pytest.raises(ConfigError, match=r"prompts\.held_out is 0"):
        check(load_suite("held_out"), without, tmp_path)


def test_the_folder_of_data_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GMPO_EVAL_DATA", "/data")
    assert LiveEvaluationConfig().data == "/data"
