"""How pods end: the run's checkpoint first, then Ray, and no longer than that takes."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.chart import CHART, Object, example, pod_templates, render
from tests.deploy.tools import ROOT

pytestmark = pytest.mark.deploy

GPUS, SHARED, TINY = (CHART / "ci" / f"{name}-values.yaml" for name in ("multi-node", "shared-cluster", "tiny"))


def _before(objects: list[Object]) -> dict[str, list[str]]:
    """The command that each kind of pod runs before it ends."""
    containers = {name: template["spec"]["containers"][0] for name, template in pod_templates(objects)}
    return {name: each["lifecycle"]["preStop"]["exec"]["command"] for name, each in containers.items() if "lifecycle" in each}


class Pod:
    """A place in which such a command runs for real; what a pod would have on its PATH writes down that it was called."""

    def __init__(self, folder: Path, command: list[str]) -> None:
        self.folder, self.run = folder, folder / "run"
        self.run.mkdir()
        (self.run / "config.yaml").touch()
        self._command = [word.replace("/runs/tiny", str(self.run)).replace("/runs/math-7b", str(self.run)) for word in command]
        self.has("ray", f'echo "ray $*" >> {folder}/events')

    def has(self, name: str, does: str) -> None:
        """Put a program on the PATH."""
        (self.folder / name).write_text(f"#!/bin/bash\n{does}\n", encoding="utf-8")
        (self.folder / name).chmod(0o755)

    def ends(self, **more: str) -> subprocess.Popen[bytes]:
        """Begin the command."""
        environment = os.environ | {"PATH": f"{self.folder}:{os.environ['PATH']}"} | more
        return subprocess.Popen(self._command, env=environment, cwd=ROOT)

    @property
    def events(self) -> list[str]:
        """What was called, in order."""
        return (self.folder / "events").read_text(encoding="utf-8").splitlines()


def _driven(run: Path) -> Any:
    """The lock of a run, as its driver holds it."""
    lock = (run / "driver.lock").open("w", encoding="utf-8")
    fcntl.flock(lock, fcntl.LOCK_EX)
    lock.write(f"{os.uname().nodename} pid 1")
    lock.flush()
    return lock


def test_the_head_has_its_own_run_end_as_one_to_try_again(tmp_path: Path) -> None:
    head = Pod(tmp_path, _before(example(TINY))["rayjob-head"])
    os.mkfifo(tmp_path / "asked")
    head.has("gmpo", f'{sys.executable} -m services.cli "$@"; status=$?; echo asked > {tmp_path}/asked; exit $status')
    with _driven(head.run):
        ending = head.ends()
        (tmp_path / "asked").read_text(encoding="utf-8")
        assert (head.run / "stop").read_text(encoding="utf-8") == "resubmit"
        (tmp_path / "events").write_text("checkpoint written\n", encoding="utf-8")
    assert ending.wait(timeout=60) == 0
    assert head.events == ["checkpoint written", "ray stop"]


def test_a_head_whose_run_is_elsewhere_does_not_wait(tmp_path: Path) -> None:
    head = Pod(tmp_path, _before(example(TINY))["rayjob-head"])
    head.has("gmpo", f'{sys.executable} -m services.cli "$@"')
    with _driven(head.run) as lock:
        lock.truncate(0)
        lock.write("another-pod pid 1")
        lock.flush()
        assert head.ends().wait(timeout=60) == 0
    assert not (head.run / "stop").exists(), "the run goes on"
    assert head.events == ["ray stop"]


def test_a_worker_stays_until_the_run_that_stops_lets_go(tmp_path: Path) -> None:
    worker = Pod(tmp_path, _before(example(GPUS))["rayjob-learner"])
    os.mkfifo(tmp_path / "waits")
    longer = 70  # times than a worker waits for a run that goes on
    worker.has("sleep", f"echo >> {tmp_path}/times; [ $(wc -l < {tmp_path}/times) -ne {longer} ] || echo still > {tmp_path}/waits")
    (worker.run / "stop").touch()
    with _driven(worker.run):
        ending = worker.ends()
        (tmp_path / "waits").read_text(encoding="utf-8")
        (tmp_path / "events").write_text("checkpoint written\n", encoding="utf-8")
    assert ending.wait(timeout=60) == 0
    assert worker.events == ["checkpoint written", "ray stop"]


def test_a_worker_that_goes_alone_does_not_take_the_whole_grace(tmp_path: Path) -> None:
    worker = Pod(tmp_path, _before(render(GPUS, {"training": {"terminationGracePeriodSeconds": 60}}))["rayjob-learner"])
    worker.has("sleep", f"echo sleep >> {tmp_path}/events")
    with _driven(worker.run):
        assert worker.ends().wait(timeout=60) == 0
    assert worker.events == ["sleep"] * 30 + ["ray stop"]


def test_a_worker_of_a_run_that_is_over_goes_at_once(tmp_path: Path) -> None:
    worker = Pod(tmp_path, _before(example(GPUS))["rayjob-learner"])
    (worker.run / "driver.lock").touch()
    worker.has("sleep", f"echo sleep >> {tmp_path}/events")
    assert worker.ends().wait(timeout=60) == 0
    assert worker.events == ["ray stop"]


FAKE_JOBS = """
from types import SimpleNamespace

class Status:
    def __init__(self, terminal):
        self.is_terminal = lambda: terminal

def note(text):
    with open("EVENTS", "a", encoding="utf-8") as file:
        file.write(text + "\\n")

class JobSubmissionClient:
    def __init__(self, address):
        self.left = {"running": 2, "pending": 1}
    def list_jobs(self):
        jobs = [("running", False), ("done", True), ("pending", False), (None, False)]
        return [SimpleNamespace(submission_id=name, status=Status(over)) for name, over in jobs]
    def stop_job(self, name):
        note(f"stop {name}")
    def get_job_status(self, name):
        self.left[name] -= 1
        if self.left[name] == 0:
            note(f"{name} has ended")
        return Status(self.left[name] <= 0)
"""


def test_a_shared_head_asks_every_job_to_end_and_waits_for_all(tmp_path: Path) -> None:
    before = _before(example(SHARED))
    assert list(before) == ["raycluster-head"]
    head = Pod(tmp_path, before["raycluster-head"])
    head.has("python", f'exec {sys.executable} "$@"')
    (tmp_path / "modules" / "ray").mkdir(parents=True)
    (tmp_path / "modules" / "ray" / "__init__.py").touch()
    fake = FAKE_JOBS.replace("EVENTS", str(tmp_path / "events"))
    (tmp_path / "modules" / "ray" / "job_submission.py").write_text(fake, encoding="utf-8")
    assert head.ends(PYTHONPATH=str(tmp_path / "modules")).wait(timeout=60) == 0
    assert head.events == ["stop running", "stop pending", "running has ended", "pending has ended", "ray stop"]


def test_pods_have_the_time_that_a_checkpoint_takes() -> None:
    grace = {name: template["spec"].get("terminationGracePeriodSeconds") for name, template in pod_templates(example(GPUS))}
    assert {grace[f"rayjob-{group}"] for group in ("head", "engines", "learner", "cpu")} == {300}
