"""Real runs in processes of their own, each marked by its environment, so that what it leaves behind can be found."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from actors.replay.history import read
from services.config import load_recipe
from services.training.warmup import warm_policy
from tests.integration.endpoint import endpoint as endpoint  # a fixture

ROOT = Path(__file__).parents[2]
TINY = ROOT / "deploy" / "recipes" / "tiny.yaml"
RUN_TIMEOUT_S = 280
MARK = "GMPO_TEST_RUN"
QUICK = (
    "run.prompts_per_step=4",
    "run.export_every=4",
    "generation.group_size=4",
    "learner.updates_per_step=2",
    "learner.checkpoint_every=2",
    "prompts.held_out=0",
)
"""Settings of the tiny recipe under which a step takes about a second."""
STEPS = 10
SMALL = (
    f"run.steps={STEPS}",
    "run.prompts_per_step=4",
    "run.export_every=5",
    "generation.group_size=4",
    "learner.updates_per_step=2",
    "learner.checkpoint_every=3",
    "prompts.held_out=4",
)
"""Settings of the `unbroken` run: generation and learning by turns, so that a seed gives one result."""
AHEAD, SYNCHRONOUS = "replay.max_staleness=1", "replay.max_staleness=0"
ALERT = "health={every_s: 1, answer_s: 10}"
"""Dead and hung processes are found soon."""


@dataclass
class Gmpo:
    """The command line, started as a person would, with run directories under `root`."""

    root: Path
    mark: str
    _started: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Start a verb, with these variables in its environment; its output goes to `output`."""
        environment = os.environ | {MARK: self.mark, "GMPO_RUN_ROOT": str(self.root), "RAY_DEDUP_LOGS": "0"} | environment
        command = [sys.executable, "-m", "services.cli", *arguments]
        with self.output.open("a") as output:
            self._started.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output, text=True))
        return self._started[-1]

    def train(self, name: str, *overrides: str, recipe: Path = TINY) -> Path:
        """Run a recipe to its end; returns the run directory."""
        process = self.start("train", str(recipe), f"run.name={name}", *overrides)
        assert process.wait(RUN_TIMEOUT_S) == 0, self.output.read_text()
        return self.root / name

    def stop_at(self, step: int, name: str, *overrides: str) -> Path:
        """Run a recipe, press Ctrl-C once `step` is logged, wait for the end; returns the run directory."""
        return self.disturb(step, name, lambda driver: driver.send_signal(signal.SIGINT), *overrides)

    def disturb(self, step: int, name: str, disturbance: Callable[[subprocess.Popen[str]], None], *overrides: str, status: int = 0) -> Path:
        """Run a recipe, do something to it once `step` is logged, wait for the end; returns the run directory."""
        process = self.start("train", str(TINY), f"run.name={name}", *overrides)
        self.until(process, lambda: steps_logged(self.root / name) >= step)
        disturbance(process)
        assert process.wait(RUN_TIMEOUT_S) == status, self.output.read_text()
        return self.root / name

    def until(self, process: subprocess.Popen[str], reached: Callable[[], bool]) -> None:
        """Wait until a run has come to some point; fails where it ends or hangs before."""
        deadline = time.monotonic() + RUN_TIMEOUT_S
        while not reached():
            assert process.poll() is None and time.monotonic() < deadline, self.output.read_text()
            time.sleep(0.05)

    def actors(self, kind: str) -> list[psutil.Process]:
        """The processes of the runs' Ray actors of a class, oldest first."""
        return sorted((process for process in self.processes() if _is_actor(process, kind)), key=lambda process: process.create_time())

    @property
    def output(self) -> Path:
        """All that the processes printed."""
        return self.root / "output.log"

    def left_behind(self) -> list[str]:
        """Command lines of processes of these runs that are still there after a while: the kernel needs a moment to end them."""
        deadline = time.monotonic() + 15
        while (left := self.leftovers()) and time.monotonic() < deadline:
            time.sleep(0.2)
        return left

    def leftovers(self) -> list[str]:
        """Command lines of living processes that these runs started."""
        return [title for process in self.processes() if (title := _title(process))]

    def end(self) -> None:
        """Kill whatever is left, so that a failed test harms no other, and see the verbs off, which would be zombies."""
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        for started in self._started:
            started.wait()

    def processes(self) -> list[psutil.Process]:
        """Every living process of these runs."""
        return [process for process in psutil.process_iter() if self._is_ours(process)]

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            return process.environ().get(MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            return False


def steps_logged(run: Path) -> int:
    """Steps that a run has told of so far."""
    log = run / "metrics.jsonl"
    return len(log.read_text().splitlines()) if log.exists() else 0


def happened(run: Path, event: str) -> int:
    """How often a run's history tells of an event."""
    return sum(line["event"] == event for line in read(run / "ledger.jsonl"))


def _title(process: psutil.Process) -> str:
    """A process's command line, or its name; nothing if it has just ended."""
    try:
        return " ".join(process.cmdline()).strip() or process.name()
    except psutil.NoSuchProcess:
        return ""


def _is_actor(process: psutil.Process, kind: str) -> bool:
    """Ray names a process after its actor's class and, while it works, the method."""
    title = _title(process)
    return title == f"ray::{kind}" or title.startswith(f"ray::{kind}.")


@contextlib.contextmanager
def leaving_nothing(root: Path) -> Iterator[Gmpo]:
    """A command line whose processes are all gone at the end of the block."""
    runner = Gmpo(root, uuid.uuid4().hex)
    try:
        yield runner
        assert runner.left_behind() == []
    finally:
        runner.end()


@pytest.fixture
def gmpo(tmp_path: Path) -> Iterator[Gmpo]:
    """A command line whose processes are all gone at the end of the test."""
    with leaving_nothing(tmp_path) as runner:
        yield runner


@pytest.fixture(scope="session")
def warm_model() -> Path:
    """The tiny recipe's warm policy, taught once and cached."""
    return warm_policy(load_recipe(TINY), lambda text: None)


@pytest.fixture(scope="session")
def unbroken(warm_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run to which nothing happened, made once; those that were disturbed are held against it."""
    with leaving_nothing(tmp_path_factory.mktemp("unbroken")) as runner:
        return runner.train("unbroken", *SMALL)


@pytest.fixture
def metrics() -> Callable[[Path], list[dict[str, Any]]]:
    """Reads a run's metrics.jsonl."""
    return lambda run: [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
