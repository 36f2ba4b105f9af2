from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.tiny_model import build_config
from tests.unit.recipes import TINY
from tests.unit.test_cli import PROMISED_S, gmpo, started


def test_the_papers_model_on_eight_gpus_is_laid_out_and_set_beside_the_papers_layout(tmp_path: Path) -> None:
    done, seconds = started("plan", "Qwen2.5-Math-7B", "--gpus", "8", "--json", tmp_path / "plan.json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == "heavy: ", "sizes come from configurations alone"
    assert seconds < PROMISED_S
    assert "generation.engines=3" in done.stdout and "learner.ranks=4" in done.stdout
    assert "colocated" in done.stdout and "fits: 8 of 8 GPUs" in done.stdout
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert plan["parameters"] == 7_615_616_512 and plan["fits"] is True
    assert {pool["name"]: pool["gpus"] for pool in plan["pools"] if pool["gpus"]} == {"engines": 3, "learner": 4, "reference": 1}


def test_the_overrides_it_prints_make_the_plan_that_it_printed(tmp_path: Path) -> None:
    gmpo("plan", "Qwen2.5-Math-7B", "--gpus", "8", "--json", tmp_path / "chosen.json")
    chosen = json.loads((tmp_path / "chosen.json").read_text())
    gmpo("plan", "Qwen2.5-Math-7B", *chosen["overrides"], "--gpus", "8", "--json", tmp_path / "given.json")
    assert json.loads((tmp_path / "given.json").read_text()) == chosen


def test_what_does_not_fit_says_so_names_the_pool_and_ends_with_status_1() -> None:
    result = gmpo("plan", "Qwen2.5-Math-7B", "--gpus", "4")
    assert result.exit_code == 1
    assert "learner: 82.9 GiB, and a GPU offers 72.0" in result.stdout
    assert "learner.lora={rank: 32}" in result.stdout


def test_a_model_directory_needs_no_weights(tmp_path: Path) -> None:
    build_config().to_json_file(tmp_path / "config.json")
    result = gmpo("plan", tmp_path, "policy.dtype=float32")
    assert result.exit_code == 0, result.stdout
    assert "821,632 parameters" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["nowhere.yaml"], "neither a recipe nor a model's directory"),
        ([str(TINY), "learner.ranks=0"], "learner.ranks: "),
        ([str(TINY), "policy={type: pretrained, path: acme/none}"], "policy.path: acme/none is no directory"),
        (["Qwen2.5-Math-7B", "generation.max_tokens=9000"], "generation.max_tokens"),
        (["Qwen2.5-Math-7B", "--gpus", "-1"], "--gpus"),
        (["Qwen2.5-Math-7B", "--json", "nowhere/plan.json"], "nowhere/plan.json"),
    ],
)
def test_a_wrong_question_ends_with_status_2_and_names_the_field(arguments: list[str], complaint: str) -> None:
    result = gmpo("plan", *arguments)
    assert result.exit_code == 2
    assert complaint in result.stderr
