"""`ray job submit` of the checkout against a cluster with token authentication."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import pytest

from tests.integration.conftest import MARK, ROOT, Gmpo
from tests.ports import free_port

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]
RAY = Path(sys.executable).with_name("ray")
SMALL = ("run.steps=2", "run.prompts_per_step=4", "generation.group_size=4", "learner.updates_per_step=2", "prompts.held_out=0")


def status(url: str, token: str | None) -> int:
    """HTTP status of the dashboard's answer; 0 while nothing listens."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with urlopen(Request(url, headers=headers), timeout=5) as answer:
            return int(answer.status)
    except HTTPError as error:
        return error.code
    except (URLError, OSError):
        return 0


@pytest.fixture
def cluster(gmpo: Gmpo) -> Iterator[tuple[str, dict[str, str]]]:
    """(dashboard URL, environment) of a head node on loopback."""
    port, dashboard, agent = free_port(), free_port(), free_port()  # of its own, beside whatever Ray runs here
    environment = os.environ | {MARK: gmpo.mark, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    command = [str(RAY), "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={port}", f"--dashboard-port={dashboard}"]
    command.append(f"--dashboard-agent-listen-port={agent}")
    with gmpo.output.open("a") as output:
        head = subprocess.Popen(
            [*command, "--num-cpus=2", "--object-store-memory=300000000"], env=environment, stdout=output, stderr=output
        )
    url = f"http://127.0.0.1:{dashboard}"
    deadline = time.monotonic() + 90
    while status(f"{url}/api/version", environment["RAY_AUTH_TOKEN"]) != 200:
        assert head.poll() is None and time.monotonic() < deadline, gmpo.output.read_text()
        time.sleep(0.2)
    yield url, environment
    head.send_signal(signal.SIGTERM)
    head.wait(60)


def test_a_submitted_job_trains_and_a_stranger_is_refused(gmpo: Gmpo, warm_model: Path, cluster: tuple[str, dict[str, str]]) -> None:
    url, environment = cluster
    assert status(f"{url}/api/jobs/", None) == 401
    submit = [str(RAY), "job", "submit", f"--address={url}", "--working-dir=.", "--", sys.executable, "-m", "services.cli", "train"]
    job = [*submit, "deploy/recipes/tiny.yaml", *SMALL]

    relative = subprocess.run(job, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert relative.returncode != 0
    assert "run.root" in relative.stdout + relative.stderr

    done = subprocess.run([*job, f"run.root={gmpo.root}"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len((gmpo.root / "tiny" / "metrics.jsonl").read_text().splitlines()) == 2
