from __future__ import annotations

import json
import re
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


@pytest.mark.parametrize(
    ("replay", "adds_up"),
    [("{max_staleness: 0}", True), ("{max_staleness: 2, exact_staleness: true}", True), ("{max_staleness: 2}", False)],
)
def test_a_step_takes_the_sum_where_pools_take_turns_and_the_longest_where_they_do_not(replay: str, adds_up: bool) -> None:
    shown = gmpo("plan", "Qwen2.5-Math-7B", f"replay={replay}", "--gpus", "8").stdout
    step = re.search(r"here (?:.*= )?(\d+) s[:,].*generating (\d+) s, scoring (\d+) s, learning (\d+) s", shown)
    assert step is not None
    total, generating, scoring, learning = map(int, step.groups())
    sampling = max(generating, scoring)
    assert total == pytest.approx(sampling + learning if adds_up else max(sampling, learning), abs=1), "each is rounded"
    assert ("would give back" in shown) is adds_up


def test_the_overrides_it_prints_make_the_plan_that_it_printed(tmp_path: Path) -> None:
    printed = gmpo("plan", "Qwen2.5-Math-7B", "--gpus", "8", "--json", tmp_path / "chosen.json").stdout
    chosen = json.loads((tmp_path / "chosen.json").read_text())
    overrides = chosen.pop("overrides")
    assert overrides and all(f"\n  {override}\n" in printed for override in overrides)
    given = json.loads(gmpo("plan", "Qwen2.5-Math-7B", *overrides, "--gpus", "8", "--json", "-").stdout)
    assert given.pop("overrides") == [], "the question has them already"
    assert given == chosen


def test_keys_of_the_json_depend_on_no_number() -> None:
    def keys(*overrides: str) -> dict[str, tuple[set[str], set[str]]]:
        plan = json.loads(gmpo("plan", "Qwen2.5-Math-7B", "--gpus", "16", *overrides, "--json", "-").stdout)
        return {pool["name"]: (set(pool["gpu_bytes"] or ()), set(pool["host_member_bytes"])) for pool in plan["pools"]}

    found = keys()
    assert found == keys("generation.max_tokens=2000", "learner.activation_checkpointing=true")
    assert all(key.isidentifier() and key.islower() for parts in found.values() for part in parts for key in part)


def test_what_the_learner_takes_of_host_memory_is_broken_down() -> None:
    shown = gmpo("plan", "Qwen2.5-Math-7B", "--gpus", "8").stdout
    _, _, after = shown.partition("learner, host memory of each")
    learner, _, _ = after.partition("learner's control")
    assert re.search(r"whole model, as it is read +28\.4", learner)
    assert re.search(r"learner, host memory of one +policy that is written for serving +14\.2", learner)


def test_what_does_not_fit_says_so_names_the_pool_and_ends_with_status_1() -> None:
    result = gmpo("plan", "Qwen2.5-Math-7B", "--gpus", "4")
    assert result.exit_code == 1
    assert "learner: 82.9 GiB, and a GPU offers 72.0" in result.stdout
    assert "learner.lora={rank: 32}" in result.stdout
    assert "chosen" not in result.stdout


def test_a_pool_that_does_not_fit_is_in_the_total_too() -> None:
    total = next(line for line in gmpo("plan", "Qwen2.5-Math-7B", "--gpus", "2").stdout.splitlines() if line.startswith("in all"))
    assert " NO " in total and " yes " not in total


def test_where_nothing_helps_it_says_that_and_why() -> None:
    shown = gmpo("plan", "Qwen3-8B", "--gpus", "8", "--gpu-gib", "16").stdout
    assert "no single change makes it fit" in shown
    assert "learner: at the start each has the whole model on its GPU, 32.0 GiB; more of them do not lower that" in shown


def test_a_recipe_whose_model_is_elsewhere_is_sized_by_the_published_one_of_that_name() -> None:
    result = gmpo("plan", TINY.with_name("multi-node.yaml"), "--gpus", "16")
    assert result.exit_code == 0, result.output
    assert "/runs/models/Qwen2.5-Math-7B is no directory here; sizes are those of Qwen/Qwen2.5-Math-7B" in result.stdout
    assert "7,615,616,512 parameters" in result.stdout


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
        ([str(TINY), "policy={type: pretrained, path: acme/none}"], "add policy.path=DIRECTORY, or the model it is like, one of Qwen/"),
        ([str(TINY.with_name("qwen3-30b-a3b.yaml"))], "mixtures of experts are not planned"),
        (["Qwen3-30B-A3B"], "mixtures of experts are not planned"),
        (["Qwen2.5-Math-7B", "generation.max_tokens=9000"], "generation.max_tokens"),
        (["Qwen2.5-Math-7B", "--gpus", "8", "generation.tensor_parallel=3"], "generation.tensor_parallel: 3 GPUs cannot share"),
        (["Qwen2.5-Math-7B", "--gpus", "8", "generation.tensor_parallel=7"], "generation.tensor_parallel: 7 GPUs cannot share"),
        (["Qwen2.5-Math-7B", "--gpus", "8", "--gpus-per-node", "2", "generation.tensor_parallel=4"], "a node has 2"),
        (["Qwen2.5-Math-7B", "--gpus", "8", "serve={during_training: true, gpus: 3}"], "serve.gpus: 3 GPUs cannot share"),
        (["Qwen2.5-Math-7B", "--gpus", "-1"], "--gpus"),
        (["Qwen2.5-Math-7B", "--json", "nowhere/plan.json"], "nowhere/plan.json"),
    ],
)
def test_a_wrong_question_ends_with_status_2_and_names_the_field(arguments: list[str], complaint: str) -> None:
    result = gmpo("plan", *arguments)
    assert result.exit_code == 2
    assert complaint in result.stderr
