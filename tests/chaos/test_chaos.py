"""Histories of runs that are harmed at random, checked in the manner of Jepsen.

Whatever is killed or hangs, and whenever: the run comes to its last step in time (the driver is started again when it is what died), no
prompt is lost or trained twice, versions only grow, and nothing older than the staleness bound is trained on.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from services.ledger import audit_run
from tests.chaos.schedule import DRIVER, Harm, Schedule, draw
from tests.integration.conftest import AHEAD, ALERT, QUICK, TINY, Gmpo, steps_logged

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1200)]

SEEDS = int(os.environ.get("GMPO_CHAOS_SEEDS", "20"))
STEPS = 10
DEADLINE_S = 480
SETTINGS = (*QUICK, AHEAD, ALERT, f"run.steps={STEPS}", "run.export_every=5", "learner.max_restarts=10")
logger = logging.getLogger("chaos")


class Harmed:
    """A run under its schedule; `drive` returns when it has come to its end."""

    def __init__(self, gmpo: Gmpo, schedule: Schedule) -> None:
        self._gmpo, self._schedule = gmpo, schedule
        self._run = gmpo.root / "run"
        self._driver = self._start()
        self._began = time.monotonic()

    def drive(self) -> None:
        """Deal every blow in its time, and start the driver again as often as it dies."""
        for harm in self._schedule.harms:
            self._wait_for(harm)
            self._deal(harm)
        self._until(lambda: False)
        assert self._driver.returncode == 0, self._gmpo.output.read_text()

    def _start(self) -> subprocess.Popen[str]:
        return self._gmpo.start("train", str(TINY), "run.name=run", *SETTINGS, f"generation.engines={self._schedule.engines}")

    def _wait_for(self, harm: Harm) -> None:
        self._until(lambda: steps_logged(self._run) >= harm.step)
        moment = time.monotonic() + harm.delay_s
        self._until(lambda: time.monotonic() >= moment)

    def _until(self, reached: Callable[[], bool]) -> None:
        """Wait for something, or for the run's end."""
        while self._driver.poll() is None and not reached():
            assert time.monotonic() < self._began + DEADLINE_S, f"hangs:\n{self._gmpo.output.read_text()}"
            time.sleep(0.05)

    def _deal(self, harm: Harm) -> None:
        """Nothing, where no such process is there at the time."""
        if harm.kind == DRIVER:
            victims = [psutil.Process(self._driver.pid)] if self._driver.poll() is None else []
        else:
            victims = self._gmpo.actors(harm.kind)
        logger.info(
            "%5.1f s, step %d: %s%s", time.monotonic() - self._began, steps_logged(self._run), harm, "" if victims else ": none there"
        )
        if not victims:
            return
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended by itself meanwhile
            self._strike(victims[int(harm.which * len(victims))], harm)
        if harm.kind == DRIVER and harm.how == "kill":
            self._driver.wait()
            self._driver = self._start()

    def _strike(self, victim: psutil.Process, harm: Harm) -> None:
        if harm.how == "pause":
            victim.suspend()
            moment = time.monotonic() + harm.pause_s
            self._until(lambda: time.monotonic() >= moment)
            victim.resume()
        else:
            victim.send_signal(signal.SIGKILL if harm.how == "kill" else signal.SIGSTOP)


def check(run: Path) -> str:
    """The rules; returns the account in a line."""
    audit, violations = audit_run(run)
    assert violations == ()
    assert audit.finished and list(audit.trained) == list(range(1, STEPS + 1))
    account = audit.account
    return (
        f"{account.prompts['trained']} trained, {dict(account.dropped)} dropped, {account.reissued} issued again; "
        f"restarts: {account.driver_restarts} driver, {account.queue_restarts} queue, {account.learner_restarts} learner, "
        f"{account.engines_back} of {account.engines_lost} engines; {account.publications} publications, "
        f"{account.failed_publications} failed; oldest age {account.oldest_age}, {account.overdue} overdue"
    )


@pytest.mark.parametrize("seed", range(SEEDS))
def test_no_schedule_of_harms_loses_or_repeats_a_prompt(gmpo: Gmpo, warm_model: Path, seed: int) -> None:
    schedule = draw(seed, steps=STEPS)
    logger.info("seed %d: %d engines, %s", seed, schedule.engines, "; ".join(map(str, schedule.harms)))
    began = time.monotonic()
    Harmed(gmpo, schedule).drive()
    logger.info("seed %d: %.0f s, %s", seed, time.monotonic() - began, check(gmpo.root / "run"))
