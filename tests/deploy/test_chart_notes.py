"""What the chart says after an installation: commands that can be run as they stand."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.deploy.chart import CHART, render, the
from tests.deploy.tools import tool

pytestmark = pytest.mark.deploy

TINY = CHART / "ci" / "tiny-values.yaml"


def _notes(*values: Path, extra: tuple[str, ...] = ()) -> str:
    given = [word for file in values for word in ("--values", str(file))]
    command = [tool("helm"), "install", "mine", str(CHART), "--namespace", "lab", "--dry-run=client", *given, *extra]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("NOTES:")[1]


def test_notes_say_the_next_command() -> None:
    notes = _notes(TINY)
    job = the(render(TINY, release="mine"), "RayJob")["metadata"]["name"]
    for line in (f"kubectl -n lab logs -f job/{job}", "auth_token", "port-forward service/mine-gmpo-serve-svc 8000", "gmpo query"):
        assert line in notes
    assert "helm -n lab upgrade mine helm/gmpo --reuse-values --set-string training.revision=" in notes
    assert "kubectl -n lab get pvc mine-gmpo-runs" in notes
    assert " delete " not in notes
    lines = [line.strip() for line in notes.splitlines() if line.startswith("  ")]
    commands = [n for n, line in enumerate(lines) if not line.startswith(("#", "export"))]
    assert all(lines[n - 1].startswith(("#", "export")) for n in commands), "each command is explained"


def test_notes_say_where_the_log_is_without_a_pod_that_shows_it() -> None:
    notes = _notes(CHART / "ci" / "existing-cluster-values.yaml")
    assert "cluster=research\n" in notes
    assert "ray job logs --address http://127.0.0.1:8265 -f" in notes
    assert "logs -f job/" not in notes


def test_notes_of_an_endpoint_alone_tell_of_no_run() -> None:
    assert "RayJob" not in _notes(TINY, extra=("--set=training.enabled=false,recipe=null,endpoint.runName=math",))
