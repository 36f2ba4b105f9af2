"""A run that answers while it trains, and evaluates through its endpoint what it makes."""

from __future__ import annotations

import json
import re
import secrets
import signal
from pathlib import Path

import httpx
import psutil
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


SECRETS = {"RAY_AUTH_TOKEN": secrets.token_hex(32), "WANDB_API_KEY": secrets.token_hex(20), "AWS_SECRET_ACCESS_KEY": secrets.token_hex(20)}


def test_a_run_answers_while_it_trains_and_evaluates_its_versions_in_the_closed(gmpo: Gmpo) -> None:
    process = gmpo.start("train", str(TINY), "run.name=live", *QUICK, *LIVE, **SECRETS)
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
    assert _listen_beyond_loopback(gmpo) <= {"ray::RayTrainWorker", "ray::ServeReplica:policy:policy"}  # the two that SECURITY.md names
    assert not any(secret in word for process in gmpo.processes() for word in process.cmdline() for secret in SECRETS.values())
    process.send_signal(signal.SIGINT)
    assert process.wait(RUN_TIMEOUT_S) == 0, gmpo.output.read_text()
    assert [path for path in gmpo.root.rglob("*") if path.is_file() and _tells(path)] == []


def _listen_beyond_loopback(gmpo: Gmpo) -> set[str]:
    """Names of a run's processes that another machine could reach."""
    found = set()
    for process in gmpo.processes():
        listening = [held.laddr.ip for held in process.net_connections("inet") if held.status == psutil.CONN_LISTEN]
        if any(not ip.removeprefix("::ffff:").startswith("127.") for ip in listening):
            found.add(process.cmdline()[0].partition(".")[0])
    return found


def _tells(path: Path) -> bool:
    """Whether a file holds a secret."""
    return any(secret.encode() in path.read_bytes() for secret in SECRETS.values())


def _newest(url: str) -> int:
    return int(httpx.get(f"{url}/health").json()["step"])


def _results(run: Path) -> list[Path]:
    return sorted((run / "evaluations" / "held_out").glob("step-*.json"))
