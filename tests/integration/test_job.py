"""Jobs of the checkout against a cluster with token authentication: submitted, left alone, and stopped with a checkpoint."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.ledger import audit_run
from tests.integration.conftest import QUICK, ROOT, Gmpo, steps_logged
from tests.integration.head import RAY, Head, running_head, status

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]
RECIPE = ("deploy/recipes/tiny.yaml", *QUICK, "run.steps=2000", "replay.max_staleness=1")
PATIENCE_S = 240


@pytest.fixture
def head(gmpo: Gmpo) -> Iterator[Head]:
    """A head that gives a stopped job the time for its checkpoint."""
    with running_head(gmpo, RAY_JOB_STOP_WAIT_TIME_S="120") as running:
        yield running


def until(reached: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait for it; fails where the process ends before, or after a while."""
    deadline = time.monotonic() + PATIENCE_S
    while not reached():
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


def test_a_job_trains_on_its_own_and_is_stopped_with_a_checkpoint(gmpo: Gmpo, warm_model: Path, head: Head) -> None:
    assert status(f"{head.url}/api/jobs/", None) == 401
    submit = (str(RAY), "job", "submit", f"--address={head.url}", "--runtime-env=deploy/jobs/runtime_env.yaml", "--")
    refused = head.try_run(*submit, "python", "-m", "services.cli", "train", *RECIPE, cwd=ROOT)
    assert refused.returncode != 0
    assert "run.root" in refused.stdout + refused.stderr  # relative: it would be lost with the job's copy of the checkout

    run, log = gmpo.root / "tiny", gmpo.root / "submit.log"
    command = [sys.executable, "deploy/jobs/submit.py", f"--address={head.url}", *RECIPE, f"run.root={gmpo.root}"]
    with log.open("wb") as output:
        follower = subprocess.Popen(command, cwd=ROOT, env=head.environment | {"PYTHONPATH": str(ROOT)}, stdout=output, stderr=output)
    until(lambda: steps_logged(run) >= 2 and "step 2/" in log.read_text(), follower, log)
    (job,) = re.findall(r"submitted (\w+)", log.read_text())
    follower.send_signal(signal.SIGINT)
    assert follower.wait(60) == 0, log.read_text()
    assert f"{job} goes on" in log.read_text()

    stopped = head.run(str(RAY), "job", "stop", f"--address={head.url}", job)
    assert "was stopped" in stopped, stopped
    assert "stopped after step" in head.run(str(RAY), "job", "logs", f"--address={head.url}", job)
    audit, violations = audit_run(run)
    assert violations == () and audit.account.steps >= 2
    assert audit.account.committed == audit.account.steps
