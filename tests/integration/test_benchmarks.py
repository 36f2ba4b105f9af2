"""The benchmarks of the pipeline, run as a person runs them, at sizes that say nothing about speed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]


def bench(tmp_path: Path, *arguments: str) -> dict[str, Any]:
    """The report of a benchmark, as JSON."""
    file = tmp_path / "report.json"
    command = [sys.executable, "-m", "services.cli", "bench", *arguments, "--json", str(file)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(file.read_text())
    assert found["aims"] == []  # which are held only at the default size
    return found


def test_no_payload_passes_through_the_driver(tmp_path: Path) -> None:
    size = ("--groups", "40", "--batch", "8", "--ahead", "1", "--producers", "6", "--repeats", "1", "--kib", "128", "--kib", "64")
    found = bench(tmp_path, "queue", *size)
    rows = {(row["way"], row["kib"]): row for row in found["rows"]}
    assert {way for way, _ in rows} == {"gmpo", "calls", "puts"} and {kib for _, kib in rows} == {128, 64}
    assert all(row["groups_per_s_median"] > 0 for row in rows.values())
    for kib in (128, 64):
        assert rows["gmpo", kib]["driver_store_bytes"] == 0
        assert rows["gmpo", kib]["driver_received_kib_per_group"] < 32
    assert rows["calls", 64]["driver_received_kib_per_group"] > 60  # what Ray sends inline shows in this figure


def test_every_phase_of_a_publication_has_its_time(tmp_path: Path) -> None:
    found = bench(tmp_path, "weights", "--mib", "3", "--bucket-mib", "1", "--repeats", "2")
    rows = {row["way"]: row["seconds_median"] for row in found["rows"]}
    assert list(rows) == [
        "gmpo, sending",
        "gmpo, pause to resume",
        "bare",
        *(f"phase {phase}" for phase in ("connect", "pause", "send", "commit", "resume", "probe")),
    ]
    assert all(seconds > 0 for seconds in rows.values())
    assert rows["gmpo, pause to resume"] > rows["gmpo, sending"]
    assert set(found["ratios"]) == {"sending_over_bare", "pause_to_resume_over_bare"}


def test_the_simulated_pipeline_takes_no_less_than_its_sleeps(tmp_path: Path) -> None:
    sizes = ("--engines", "2", "--growth", "1", "--growth", "5", "--learning", "1", "--longest-s", "0.2", "--steps", "3")
    found = bench(tmp_path, "pipeline", *sizes, "--plot", str(tmp_path / "pipeline.png"))
    rows = {row["case"]: row for row in found["rows"]}
    assert list(rows) == ["learning 1 x, staleness 0", "learning 1 x, staleness 1", "1 engines", "5 engines"]
    assert all(row["step_s"] >= row["expected_s"] for case, row in rows.items() if case.endswith("staleness 0"))
    assert all(row["step_s"] >= row["learning_s"] for row in rows.values())
    assert (tmp_path / "pipeline.png").stat().st_size > 10_000


def test_the_engine_and_bare_vllm_sample_responses_of_the_same_lengths(tmp_path: Path) -> None:
    size = ("--model", "tiny", "--responses", "3", "--shortest", "4", "--longest", "8", "--repeats", "1")
    found = bench(tmp_path, "generation", *size)
    assert [row["way"] for row in found["rows"]] == ["gmpo", "bare"]
    assert found["settings"]["tokens"] == 18 and found["ratios"]["gmpo_over_bare"]["median"] > 0
