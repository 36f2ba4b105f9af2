"""Weighted sums, and the three signatures a user's function may have."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from actors.errors import ConfigError, VerifierError
from actors.reward.config import RewardConfig
from actors.reward.functions import Sample
from actors.reward.grading import Grader
from actors.types import Answer, Outcome, Verdict

HERE = __name__


def ours(task: str, response: str, answer: Answer) -> float:
    return float(len(response))


def gives_verdict(task: str, response: str, answer: Answer) -> Verdict:
    return Verdict(0.0, Outcome.TIMEOUT)


def trl_style(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
    assert prompts == ["Q"] and columns["level"] == [3] and columns["answer"] == columns["solution"] == ["5"]
    return [1.0 if "5" in completion else 0.0 for completion in completions]


def trl_narrow(completions: list[str], prompts: list[str], solution: list[str]) -> list[float | None]:
    return [None]


def compute_score(data_source: str, solution_str: str, ground_truth: str, extra_info: dict[str, Any]) -> dict[str, Any]:
    return {"score": -1.0 if extra_info["split"] == "hard" else 0.5, "acc": True, "pred": ground_truth}


def not_a_number(task: str, response: str, answer: Answer) -> float:
    return float("nan")


def grade(*parts: dict[str, Any]) -> Verdict:
    columns = {"level": 3, "extra_info": {"split": "hard"}}
    sample = Sample("math", r"\boxed{5}", "5", prompt="Q", columns=columns)
    return Grader(RewardConfig.model_validate({"parts": parts}).parts).grade(sample)


def function(name: str, style: str = "gmpo", weight: float = 1.0) -> dict[str, Any]:
    return {"type": "function", "path": f"{HERE}:{name}", "style": style, "weight": weight}


def test_the_default_reward_is_one_verifier() -> None:
    verdict = Grader(RewardConfig().parts).grade(Sample("math", r"\boxed{5}", "5"))
    assert verdict == Verdict(1.0, Outcome.RIGHT, "5", {"verifier": 1.0})


def test_parts_are_weighted_and_each_is_kept() -> None:
    verdict = grade(
        {"type": "verifier", "weight": 0.9}, {"type": "verifier", "task": "format/think", "weight": 0.1}, function("ours", weight=0.01)
    )
    assert verdict.score == pytest.approx(0.9 + 0.09)
    assert verdict.parts == {"verifier": 1.0, "format/think": 0.0, "ours": 9.0}
    assert (verdict.outcome, verdict.extracted) == (Outcome.RIGHT, "5")


def test_trl_functions_see_columns_as_lists() -> None:
    assert grade(function("trl_style", "trl")).parts == {"trl_style": 1.0}


def test_a_part_that_does_not_apply_is_left_out() -> None:
    verdict = grade({"type": "verifier"}, function("trl_narrow", "trl"))
    assert verdict.score == 1.0 and verdict.parts == {"verifier": 1.0}
    with pytest.raises(VerifierError):
        grade(function("trl_narrow", "trl"))


def test_verl_dicts_bring_score_accuracy_and_prediction() -> None:
    assert grade(function("compute_score", "verl")) == Verdict(-1.0, Outcome.RIGHT, "5", {"compute_score": -1.0})


def test_an_ungraded_part_leaves_the_whole_ungraded() -> None:
    assert grade({"type": "verifier"}, function("gives_verdict")).outcome is Outcome.TIMEOUT


def test_a_score_that_is_no_number_is_a_fault() -> None:
    with pytest.raises(VerifierError, match="nan"):
        grade(function("not_a_number"))


@pytest.mark.parametrize("path", ["no_such_module_here:f", f"{HERE}:no_such_function", f"{HERE}:HERE"])
def test_a_function_that_cannot_be_had_is_a_config_error(path: str) -> None:
    with pytest.raises(ConfigError, match=path.partition(":")[2]):
        grade({"type": "function", "path": path})


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"parts": []}, "parts"),
        ({"parts": [{"type": "verifier"}, {"type": "verifier"}]}, "different names"),
        ({"parts": [{"type": "function", "path": "not a path"}]}, "path"),
        ({"parts": [{"type": "judge"}]}, "judge"),
        ({"cpu_limit_s": 60}, "wall_limit_s"),
        ({"workers": 0}, "workers"),
        ({"timeout": 3}, "timeout"),
    ],
)
def test_wrong_sections_are_refused(section: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        RewardConfig.model_validate(section)
