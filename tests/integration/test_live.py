"""A run that answers while it trains, and evaluates through its endpoint what it makes."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import httpx
import pytest

from services.policy.client import query
from tests.integration.conftest import QUICK, RUN_TIMEOUT_S, TINY, Gmpo

pytestmark = pytest.mark.integration

LIVE = (
    "run.steps=2000",
    "run.keep_policies=1000",
    "prompts.held_out=16",
    "serve={during_training: true, port: 0, open: true, poll_s: 0.2}",
    "evaluation.live={every: 4, poll_s: 0.5}",
)


def test_a_run_answers_while_it_trains_and_evaluates_its_versions_as_they_come(gmpo: Gmpo) -> None:
    process = gmpo.start("train", str(TINY), "run.name=live", *QUICK, *LIVE)
    run = gmpo.root / "live"
    gmpo.until(process, lambda: "answering at" in gmpo.output.read_text())
    found = re.search(r"answering at (http://127\.0\.0\.1:\d+)/v1", gmpo.output.read_text())
    assert found
    url = found[1]
    first = query(url, "483920=", max_tokens=8)
    gmpo.until(process, lambda: _newest(url) > first.step and len(_results(run)) >= 2)
    later = query(url, "483920=", max_tokens=8)
    assert later.step > first.step and later.weights != first.weights
    results = [json.loads(path.read_text()) for path in _results(run)]
    assert all(result["step"] % 4 == 0 and result["overall"]["problems"] == 16 for result in results)
    rows = httpx.get(f"{url}/v1/policies").json()["data"]
    assert any("held_out/pass@1" in row["metrics"] for row in rows)
    process.send_signal(signal.SIGINT)
    assert process.wait(RUN_TIMEOUT_S) == 0, gmpo.output.read_text()


def _newest(url: str) -> int:
    return int(httpx.get(f"{url}/health").json()["step"])


def _results(run: Path) -> list[Path]:
    return sorted((run / "evaluations" / "held_out").glob("step-*.json"))
