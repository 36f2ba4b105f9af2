"""Whole runs on real engines: the same after Ctrl-C and in a study, and over real data through every pool."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from actors.weights.manifest import verify_version
from tests.integration.conftest import ROOT, SMALL, STEPS, TINY, Gmpo, steps_logged
from tests.tiny_model import save_experts

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

DAPO = (
    *SMALL,
    "run.steps=3",
    "replay.dynamic_sampling=true",
    "reward.overlong={limit: 16, buffer: 4}",
    "learner.objective={type: dapo}",
    "learner.backend={type: deepspeed, stage: 3}",
    "learner.lora={rank: 4, alpha: 8}",
    "learner.correction={type: tis}",
)
TIMED = ("time", "seconds", "_s", "bandwidth", "depth", "running", "claimed")
Metrics = Callable[[Path], list[dict[str, Any]]]


def figures(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Metrics without those that depend on the clock."""
    return [{name: value for name, value in line.items() if not name.endswith(TIMED)} for line in lines]


def learned(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those figures without the publication's: a step that is trained again before the engines are up is sent to none."""
    return [{name: value for name, value in line.items() if not name.startswith("weights/")} for line in figures(lines)]


def rollouts(run: Path) -> list[dict[str, Any]]:
    """Every recorded response, in order."""
    return [row for file in sorted((run / "rollouts").glob("*.parquet")) for row in pq.read_table(file).to_pylist()]


def trained(run: Path) -> list[int]:
    """Ordinals in the order the ledger says they were trained."""
    events = [json.loads(line) for line in (run / "ledger.jsonl").read_text().splitlines()]
    return [ordinal for event in events if event["event"] == "trained" for ordinal in event["ordinals"]]


@pytest.fixture(scope="module")
def data() -> Path:
    """Real problems, where they are at hand."""
    place = Path(os.environ.get("GMPO_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not place.is_dir():
        pytest.skip("no real data at GMPO_SHARED_DATA or beside the repository")
    return place


def test_a_seed_gives_one_run_bit_for_bit_also_across_ctrl_c_and_in_a_study(gmpo: Gmpo, unbroken: Path, metrics: Metrics) -> None:
    assert len(rollouts(unbroken)) == STEPS * 16
    interrupted = gmpo.stop_at(4, "interrupted", *SMALL)
    assert gmpo.left_behind() == []
    stopped = len(metrics(interrupted))
    assert 4 <= stopped < STEPS
    assert (interrupted / "checkpoints" / f"step-{stopped}" / "ledger.json").exists()
    gmpo.train("interrupted", *SMALL)
    assert rollouts(interrupted) == rollouts(unbroken)
    assert figures(metrics(interrupted)) == figures(metrics(unbroken))
    assert trained(interrupted) == trained(unbroken) == list(range(STEPS * 4))

    manifests = [verify_version(run / "policies" / f"step-{STEPS}") for run in (unbroken, interrupted)]
    assert len({manifest.weights_sha256 for manifest in manifests}) == 1
    check_in_a_study(gmpo, unbroken, metrics)

    different = gmpo.start("train", str(TINY), "run.name=interrupted", *SMALL, "learner.optimizer.lr=1.0")
    assert different.wait(60) == 2
    assert "learner.optimizer.lr" in gmpo.output.read_text()


def check_in_a_study(gmpo: Gmpo, alone: Path, metrics: Metrics) -> None:
    """A run of a study that came second to its actors, lost its learner group for good and then its driver, is the run that was made alone.

    The next collapses, which is a result too.
    """
    file = gmpo.root / "study.yaml"
    collapsing = ["learner.optimizer.lr=1.0e+30"]
    objective = {"grpo": ["learner.objective={type: grpo}"], "gmpo": [], "collapsing": collapsing}
    settings = [*SMALL, "learner.max_restarts=0"]
    study = {"name": "study", "title": "", "recipe": str(TINY), "settings": settings, "seeds": [0], "baseline": "grpo"}
    file.write_text(yaml.safe_dump(study | {"factors": {"objective": objective}}, sort_keys=False))
    first, second, third = (gmpo.root / "study" / f"{name}-s0" for name in objective)
    process = gmpo.start("study", str(file))
    gmpo.until(process, lambda: steps_logged(second) >= 2)
    gmpo.actors("RayTrainWorker")[0].kill()
    gmpo.until(process, lambda: steps_logged(second) >= 5)
    assert f"{second.name}: the learner group failed" in gmpo.output.read_text()
    process.kill()
    process.wait()
    assert gmpo.left_behind() == []

    assert gmpo.start("study", str(file)).wait(300) == 0, gmpo.output.read_text()
    assert gmpo.left_behind() == []
    outcomes = [json.loads(line) for line in (gmpo.root / "study" / "outcomes.jsonl").read_text().splitlines()]
    assert [(row["run"], row["outcome"]) for row in outcomes] == [(first.name, "done"), (second.name, "done"), (third.name, "diverged")]
    assert outcomes[-1]["why"].startswith("step 1: the policy's log-probs are not finite")
    assert [place.name for place in (third / "policies").iterdir()] == ["step-0"]
    assert learned(metrics(second)) == learned(metrics(alone)) != learned(metrics(first))
    assert rollouts(second) == rollouts(alone)
    assert trained(first) == sorted(set(trained(second))) == list(range(STEPS * 4))  # of the second a step was trained again


def test_two_engines_stay_equal_to_the_learner_while_it_runs_ahead(gmpo: Gmpo, warm_model: Path, metrics: Metrics) -> None:
    run = gmpo.train("pair", *SMALL, "generation.engines=2", "replay.max_staleness=1", "run.steps=6")
    lines = metrics(run)
    assert len(lines) == 6
    for line in lines:
        assert line["weights/digest_ok"] == 1
        assert line["weights/probe_error"] < 1e-4
        assert line["staleness/max"] <= 1
    mismatches = [line["learner/mismatch"] for line in lines if "learner/mismatch" in line]  # none where all of a step was sampled before
    assert mismatches and max(mismatches) < 1e-4
    assert sorted(trained(run)) == list(range(6 * 4))
    check_replays(gmpo, run)


def check_replays(gmpo: Gmpo, run: Path) -> None:
    """What a run ahead recorded leads the same learner to the same weights, and another objective to others."""
    replay = gmpo.start("replay", str(run))
    assert replay.wait(120) == 0, gmpo.output.read_text()
    assert "the weights of all 6 are the run's" in gmpo.output.read_text()
    other = gmpo.start("replay", str(run), "grpo")
    assert other.wait(120) == 0, gmpo.output.read_text()
    theirs, ours = (verify_version(place / "policies" / "step-6").weights_sha256 for place in (run, run / "replays" / "grpo"))
    assert theirs != ours
    unknown = gmpo.start("replay", str(run), "no_such_objective")
    assert unknown.wait(60) == 2


def test_the_math_file_and_a_mixture_of_experts_go_through_every_pool(gmpo: Gmpo, metrics: Metrics, data: Path, tmp_path: Path) -> None:
    recipe = {
        "run": {"name": "math", "steps": 3, "prompts_per_step": 4, "export_every": 3},
        "policy": {"type": "pretrained", "path": str(save_experts(tmp_path / "experts")), "dtype": "float32"},
        "prompts": {
            "source": {"type": "file", "path": str(data / "train" / "math_lvl3to5_8523.json")},
            "template": "qwen_math",
            "max_tokens": 900,
            "held_out": 2,
        },
        "generation": {"group_size": 4, "max_tokens": 32},
        "reward": {"parts": [{"type": "verifier"}, {"type": "function", "path": "tests.integration.reward_functions:variety"}]},
        "learner": {"ranks": 2, "updates_per_step": 2, "optimizer": {"lr": 1.0e-2}},
        "evaluation": {"samples": 1},
    }
    (tmp_path / "math.yaml").write_text(yaml.safe_dump(recipe))
    run = gmpo.train("math", recipe=tmp_path / "math.yaml")
    lines = metrics(run)
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert all(line["learner/grad_norm"] > 0 for line in lines)
    assert all(line["weights/digest_ok"] == 1 and line["weights/probe_error"] < 1e-4 for line in lines)
    rows = rollouts(run)
    assert len(rows) == 3 * 16
    assert {row["task"] for row in rows} == {"math"}
    assert all(row["outcome"] in {"right", "wrong", "unparseable"} for row in rows)
    assert all(len(row["ref_logprobs"]) == len(row["logprobs"]) == len(row["token_ids"]) for row in rows)
    assert "no answer" in gmpo.output.read_text() or "left out" in gmpo.output.read_text()


def test_dapo_with_adapters_on_deepspeed_filters_what_teaches_nothing(gmpo: Gmpo, warm_model: Path, metrics: Metrics) -> None:
    run = gmpo.train("dapo", *DAPO)
    lines, rows = metrics(run), rollouts(run)
    assert all(line["reward/zero_advantage_groups"] == 0 and line["weights/digest_ok"] == 1 for line in lines)
    scores: dict[int, set[float]] = {}
    for row in rows:
        scores.setdefault(row["ordinal"], set()).add(row["score"])
    assert len(scores) == 3 * 4 and all(len(different) > 1 for different in scores.values())
    dropped = [json.loads(line) for line in (run / "ledger.jsonl").read_text().splitlines() if '"dropped"' in line]
    assert dropped and {event["reason"] for event in dropped if event["event"] == "dropped"} == {"filtered"}
    digest = verify_version(run / "policies" / "step-3").weights_sha256
    shutil.rmtree(run / "policies" / "step-3")  # as if killed between the last checkpoint and its version
    gmpo.train("dapo", *DAPO)
    assert verify_version(run / "policies" / "step-3").weights_sha256 == digest
