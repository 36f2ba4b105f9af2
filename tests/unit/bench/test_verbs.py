"""`gmpo bench`, run as a person runs it, on a machine that has neither Ray nor vLLM."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from services.cli import app

ROOT = Path(__file__).parents[3]
ABSENT = ("ray", "vllm", "deepspeed", "peft", "datasets", "fastapi", "pyarrow", "actors.learner.loop", "actors.weights.publisher")
TINY = ("--model", "tiny", "--tokens", "256", "--length-divisor", "20", "--threads", "1", "--repeats", "2")


@pytest.fixture
def bare_machine(tmp_path: Path) -> dict[str, str]:
    """An environment in which importing any of the above fails, in child processes too."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(f"import sys\nfor name in {ABSENT}:\n    sys.modules[name] = None\n")
    path = os.pathsep.join([str(tmp_path / "site"), str(ROOT)])
    return {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def bench(environment: dict[str, str], *arguments: str | Path) -> str:
    command = [sys.executable, "-m", "services.cli", "bench", *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=240, cwd=environment["HOME"])
    assert done.returncode == 0, done.stderr
    return done.stdout


def load(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_an_update_is_measured_against_the_bare_loop_and_padding(bare_machine: dict[str, str], tmp_path: Path) -> None:
    shown = bench(bare_machine, "learner", *TINY, "--json", tmp_path / "learner.json")
    found = load(tmp_path / "learner.json")
    assert [row["way"] for row in found["rows"]] == ["gmpo", "bare_alone", "padded_alone", "sorted_alone"]
    assert all(row["tokens_per_s_low"] <= row["tokens_per_s_median"] <= row["tokens_per_s_high"] for row in found["rows"])
    assert found["rows"][0]["grad_norm"] == pytest.approx(found["rows"][1]["grad_norm"], rel=1e-3)
    assert [aim["bound"] for aim in found["aims"]] == [0.97, 1.3]
    assert "gmpo over bare" in shown and "tokens per s" in shown


def test_two_ranks_are_measured_against_fsdp2_and_ddp(bare_machine: dict[str, str], tmp_path: Path) -> None:
    bench(bare_machine, "learner", *TINY, "--ranks", "2", "--way", "gmpo", "--way", "bare", "--json", tmp_path / "learner.json")
    found = load(tmp_path / "learner.json")
    assert [row["way"] for row in found["rows"]] == ["gmpo", "bare_fsdp2", "bare_ddp"]
    norms = [row["grad_norm"] for row in found["rows"]]
    assert norms == pytest.approx([norms[0]] * 3, rel=1e-3)


def test_whole_rows_in_bfloat16_with_recomputation_as_on_a_gpu(bare_machine: dict[str, str], tmp_path: Path) -> None:
    options = ["--row-tokens", "64", "--row-tokens", "128", "--dtype", "bfloat16", "--checkpointing", "--way", "gmpo", "--way", "bare"]
    bench(bare_machine, "learner", *TINY, *options, "--json", tmp_path / "learner.json")
    rows = load(tmp_path / "learner.json")["rows"]
    assert [(row["case"], row["way"], row["micro_batches"]) for row in rows] == [
        (f"{length} tokens a row", way, 2) for length in (64, 128) for way in ("gmpo", "bare_alone")
    ]


def test_the_log_probs_are_measured_in_time_memory_and_error(bare_machine: dict[str, str], tmp_path: Path) -> None:
    size = ("--tokens", "96", "--vocabulary", "3000", "--hidden", "32", "--threads", "1", "--repeats", "2")
    bench(bare_machine, "logprobs", *size, "--json", tmp_path / "logprobs.json")
    found = load(tmp_path / "logprobs.json")
    assert [row["way"] for row in found["rows"]][:2] == ["gmpo", "naive"]
    for row in found["rows"]:
        assert row["memory_total_gib"] > row["memory_extra_gib"] >= 0
        assert max(row["logprob_error_nats"], row["hidden_grad_error"], row["weight_grad_error"]) < 1e-4
    assert {aim["ratio"] for aim in found["aims"]} == {"memory_extra_gmpo_over_naive", "time_gmpo_over_naive"}


@pytest.mark.parametrize("arguments", [["--model", "7b"], ["--way", "naked"], ["--model", "qwen3-0.6b", "--ranks", "64"]])
def test_what_cannot_be_measured_is_refused_by_name_before_anything_starts(arguments: list[str]) -> None:
    result = CliRunner().invoke(app, ["bench", "learner", *arguments])
    assert result.exit_code == 2
    assert arguments[-1] in result.stderr and "Traceback" not in result.output
