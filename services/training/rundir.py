"""The run directory: where a run keeps what it did, and the rule for going on with it.

<root>/<name>/
    config.yaml        the resolved recipe
    metrics.jsonl      one object a step
    evaluation.jsonl   held-out accuracy and sample answers
    ledger.jsonl       append-only history of every prompt
    rollouts/          one Parquet file a step
    checkpoints/       learner state
    policies/step-N/   servable versions
    evaluations/       what suites found of each version
    report.html
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import socket
import time
from pathlib import Path
from typing import IO, Any

import yaml

from actors.errors import ConfigError
from actors.learner.checkpoint_store import stored
from actors.storage import is_url, joined, open_root
from actors.weights.shelf import Shelf
from services.config import Recipe, differing_keys, dump, resolved
from services.policy import orders
from services.telemetry.atomic import write_atomically
from services.telemetry.jsonl import cut_history, read_rows

MAY_DIFFER = re.compile(r"run\.root$|learner\.ranks$|serve\.|cluster\.|[a-z]+\.(cpus|gpus|actors|max_actors|resources)(\.|$)")
"""Settings with which a run may go on though they have changed: where it lies, how many ranks share the work, how it is served, and on
what: nodes come and go, and another cluster is made of others."""

CHECKPOINTS, CONFIG, EVALUATIONS, LEDGER, METRICS = "checkpoints", "config.yaml", "evaluation.jsonl", "ledger.jsonl", "metrics.jsonl"
EVALUATED, LOCK, POLICIES, STOP = "evaluations", "driver.lock", "policies", "stop"
RESUBMIT = "resubmit"
"""What the file STOP says where the run is to go on elsewhere."""
IN_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Set by Ray for the entrypoint of a job."""
HANDOVER_S, HANDOVER_POLL_S = 360.0, 1.0
"""Seconds a job waits for the driver before it to let go of the run: the chart gives that one 300 to write its checkpoint."""


class RunDirectory:
    """One run's directory, locked for the one driver that writes to it."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self.path = recipe.run_dir.absolute()
        self._lock: IO[str] | None = None

    def check(self, *, ended: bool = False) -> None:
        """ConfigError if the directory belongs to another recipe, or would be lost. Changes nothing.

        ended: a run is known to have ended here, if only in its first step.
        """
        if IN_JOB in os.environ:
            _refuse_relative_root(self._recipe.run.root)
        if ended or self.begun:
            _check_equal(recipe_of(self.path), resolved(self._recipe))
        elif stored(self.checkpoints):
            raise ConfigError(f"run.storage: {self.checkpoints} holds the checkpoints of another run")
        elif self.mirror is not None and any(Shelf(self.mirror).steps()):  # step 0 is there before a run is bound to its recipe
            raise ConfigError(f"run.storage: {self.mirror} holds the policy versions of another run")

    def open(self) -> bool:
        """Lock the directory, creating it if need be; call `check` first. True if the run goes on."""
        self.path.mkdir(parents=True, exist_ok=True)
        self._acquire()
        resuming = self.begun
        if not resuming:
            for place in (self.rollouts, self.policies, self.path / EVALUATED):
                shutil.rmtree(place, ignore_errors=True)
            (self.path / EVALUATIONS).unlink(missing_ok=True)
            if self.mirror is not None:
                _clear(self.mirror)
            write_atomically(self.path / CONFIG, dump(self._recipe))
        (self.path / STOP).unlink(missing_ok=True)
        return resuming

    @property
    def begun(self) -> bool:
        """Whether a step was ever done here; until then another recipe may have the directory."""
        log = self.metrics
        trained = (log.exists() and log.stat().st_size > 0) or bool(stored(self.checkpoints))
        return (self.path / CONFIG).exists() and trained

    def close(self) -> None:
        """Let another driver in."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    @property
    def storage(self) -> str:
        """Path or URL in which the folder of checkpoints is."""
        return self._recipe.run.storage or str(self.path)

    @property
    def checkpoints(self) -> str:
        """Path or URL of the folder of checkpoints."""
        return joined(self.storage, CHECKPOINTS)

    @property
    def history(self) -> Path:
        """Of every prompt, as the queue writes it."""
        return self.path / LEDGER

    @property
    def rollouts(self) -> Path:
        """What was trained on."""
        return self.path / "rollouts"

    @property
    def policies(self) -> Path:
        """Servable versions, as the learner writes them."""
        return self.path / POLICIES

    @property
    def policies_url(self) -> str:
        """Where to look for them, and where operators' orders are: under `run.storage` if that is a URL, else `policies`."""
        return joined(self.storage, POLICIES) if is_url(self.storage) else str(self.policies)

    @property
    def mirror(self) -> str | None:
        """The URL where versions must be found besides `policies`; None where that is the same place."""
        return None if open_root(self.policies_url)[1] == str(self.policies) else self.policies_url

    def stop_requested(self) -> bool:
        """True once someone asked the run to stop."""
        return (self.path / STOP).exists()

    def to_be_resubmitted(self) -> bool:
        """Whether who asked the run to stop wants it to go on elsewhere."""
        return self.stop_requested() and (self.path / STOP).read_text(encoding="utf-8") == RESUBMIT

    def rewind(self, step: int) -> None:
        """Forget evaluations of steps that will be done again; also that of the start, if all will be."""
        cut_history(self.path / EVALUATIONS, step or -1)

    @property
    def metrics(self) -> Path:
        """A line a step."""
        return self.path / METRICS

    @property
    def evaluated(self) -> set[int]:
        """Steps whose version was put to the held-out questions."""
        return {row["step"] for row in read_rows(self.path / EVALUATIONS)}

    @property
    def told_the_end(self) -> bool:
        """Whether the last step's metrics are written, and its evaluation if there is to be one."""
        last = self._recipe.run.steps
        asked = not self._recipe.prompts.held_out or last in self.evaluated
        return asked and any(row["step"] == last for row in read_rows(self.metrics))

    def append_evaluation(self, row: dict[str, Any]) -> None:
        """Add one evaluation to evaluation.jsonl."""
        with (self.path / EVALUATIONS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def _acquire(self) -> None:
        """Lock the directory. In a Ray job the one before may still write its last checkpoint, and is waited for; else ConfigError."""
        lock = (self.path / LOCK).open("a+", encoding="utf-8")
        deadline = time.monotonic() + (HANDOVER_S if IN_JOB in os.environ else 0)
        while not locked(lock):
            if time.monotonic() >= deadline:
                lock.seek(0)
                holder = lock.read().strip() or "another process"
                lock.close()
                raise ConfigError(f"run.name: {self.path} is in use by {holder}")
            time.sleep(HANDOVER_POLL_S)
        lock.truncate(0)
        lock.write(f"{socket.gethostname()} pid {os.getpid()}")
        lock.flush()
        self._lock = lock


def request_stop(run_dir: Path, *, here: bool = False, resubmit: bool = False) -> str:
    """Ask the driver of a run to checkpoint and end; returns who that is.

    here: only a driver on this machine; resubmit: it then ends as `Interrupted`, for whoever started it to start it again. ConfigError
    if there is no such run, or no such driver.
    """
    recipe_of(run_dir)
    with (run_dir / LOCK).open("a+", encoding="utf-8") as lock:
        if locked(lock):
            raise ConfigError(f"nobody drives {run_dir}")
        lock.seek(0)
        holder = lock.read().strip()
    if here and holder.partition(" pid ")[0] != socket.gethostname():
        raise ConfigError(f"{run_dir} is driven by {holder}, not by this machine ({socket.gethostname()})")
    (run_dir / STOP).write_text(RESUBMIT if resubmit else "", encoding="utf-8")
    return holder


def locked(file: IO[str]) -> bool:
    """Try to take a file's lock, which lasts until it is closed."""
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def recipe_of(run_dir: Path) -> Path:
    """The resolved recipe of a run; ConfigError if there is no such run."""
    config = run_dir / CONFIG
    if not config.exists():
        raise ConfigError(f"{run_dir} holds no run")
    return config


def _check_equal(existing: Path, ours: dict[str, Any]) -> None:
    theirs = yaml.safe_load(existing.read_text(encoding="utf-8"))
    differing = [key for key in differing_keys(ours, theirs) if not MAY_DIFFER.match(key)]
    if differing:
        keys = "\n".join(differing)
        raise ConfigError(f"{existing} belongs to a run with other settings; choose another run.name or the same values of:\n{keys}")


def _clear(mirror: str) -> None:
    """Take away what a run that never did a step left there."""
    shelf = Shelf(mirror)
    for step in {*shelf.steps(), *shelf.unfinished()}:
        shelf.discard(step)
    orders.write(mirror, orders.Orders())


def _refuse_relative_root(root: str) -> None:
    if not Path(root).is_absolute():
        raise ConfigError(f"run.root: {root!r} is relative; inside a Ray job it would vanish with the job's copy of the working directory")


def policies_of(run_dir: Path, recipe: Recipe) -> str:
    """Path or URL of the versions of a run whose directory may have been moved."""
    storage = recipe.run.storage
    return joined(storage, POLICIES) if storage and is_url(storage) else str(run_dir.absolute() / POLICIES)
