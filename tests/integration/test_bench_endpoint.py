"""`gmpo bench endpoint`, run as a person runs it, at a size that says nothing about speed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]


def test_the_endpoint_and_bare_vllm_give_the_same_answers_to_the_same_load(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    size = ("--model", "tiny", "--clients", "1", "--clients", "6", "--requests", "6", "--shortest", "4", "--longest", "8", "--repeats", "1")
    command = [sys.executable, "-m", "services.cli", "bench", "endpoint", *size, "--json", str(file)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(file.read_text())
    rows = [(row["kind"], row["clients"], row["way"]) for row in found["rows"]]
    assert rows == [(kind, clients, way) for kind in ("plain", "streamed") for clients in (1, 6) for way in ("gmpo", "bare")]
    assert all(row["failed"] == 0 and row["latency_p50_ms"] <= row["latency_p99_ms"] for row in found["rows"])
    assert all(row["first_token_p50_ms"] < row["latency_p50_ms"] for row in found["rows"] if row["kind"] == "streamed")
    assert all(row["server_cpu_ms_per_request"] > 1 for row in found["rows"])  # the engine's processes are counted too
    for kind in ("plain", "streamed"):
        assert found["ratios"][f"same_answers, {kind}, 1 client"]["median"] == 1
    assert found["aims"] == []  # which are held only at the default size
