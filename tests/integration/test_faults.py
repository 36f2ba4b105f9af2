"""Processes that die or hang in the middle of a real run: it ends as if nothing had been, and its history breaks no rule.

A run is long to start and quick to go on, so several blows fall on one run here, each once the run has got over the one before. That
it gets over each, and to its end, in time is asserted by `Gmpo`. `make chaos` strikes at random, for longer, and harms what is rarer.
"""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from actors.replay.audit import Account
from actors.types import Outcome
from actors.weights.manifest import verify_version
from services.ledger import audit_run
from tests.integration.conftest import AHEAD, ALERT, QUICK, SMALL, STEPS, TINY, Gmpo, happened, steps_logged
from tests.integration.test_run import figures, rollouts

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

ENDLESS = 2000


class Run:
    """An endless run with two engines that is struck again and again, and stopped when the test has seen enough."""

    def __init__(self, gmpo: Gmpo) -> None:
        self.gmpo, self.path = gmpo, gmpo.root / "run"
        self._driver = self.start()
        self.goes_on()

    def start(self) -> subprocess.Popen[str]:
        """The command that a person gives."""
        return self.gmpo.start("train", str(TINY), "run.name=run", *QUICK, ALERT, AHEAD, f"run.steps={ENDLESS}", "generation.engines=2")

    def goes_on(self, steps: int = 2) -> None:
        """Wait for further steps."""
        target = steps_logged(self.path) + steps
        self.gmpo.until(self._driver, lambda: steps_logged(self.path) >= target)

    def gets_over(self, kind: str, harm: signal.Signals, event: str | None = None) -> None:
        """Strike the oldest process of a kind; wait until another has taken its place (and `event` was told), and for further steps."""
        victim, *others = self.gmpo.actors(kind)
        told = happened(self.path, event) if event else 0
        victim.send_signal(harm)

        def replaced() -> bool:
            there = self.gmpo.actors(kind)
            return victim not in there and len(there) > len(others) and (event is None or happened(self.path, event) > told)

        self.gmpo.until(self._driver, replaced)
        self.goes_on()

    def stop(self) -> Account:
        """Press Ctrl-C, wait for the end; no rule may be broken, and nothing but the unfinished be neither trained nor dropped."""
        self._driver.send_signal(signal.SIGINT)
        assert self._driver.wait(120) == 0, self.gmpo.output.read_text()
        audit, violations = audit_run(self.path)
        assert violations == ()
        assert list(audit.trained) == list(range(1, audit.account.steps + 1))
        return audit.account


@pytest.fixture
def struck(gmpo: Gmpo, warm_model: Path) -> Iterator[Run]:
    """A run that is under way."""
    yield Run(gmpo)


def whole(run: Path) -> Account:
    """The account of a run that must have come to its end, every prompt trained once or dropped with a reason."""
    audit, violations = audit_run(run)
    assert violations == ()
    assert audit.finished and list(audit.trained) == list(range(1, STEPS + 1))
    return audit.account


def test_whatever_dies_or_hangs_is_replaced_and_no_prompt_is_lost(struck: Run) -> None:
    assert struck.start().wait(120) == 2  # a second driver is refused
    assert f"{struck.path} is in use by" in struck.gmpo.output.read_text()
    struck.goes_on()
    struck.gets_over("ReplayQueue", signal.SIGKILL, "rebuilt")
    struck.gets_over("Verifier", signal.SIGKILL)
    struck.gets_over("ReferenceScorer", signal.SIGKILL)
    struck.gets_over("Engine", signal.SIGKILL, "engine_back")
    struck.gets_over("Engine", signal.SIGSTOP, "engine_back")
    assert json.loads((struck.path / "metrics.jsonl").read_text().splitlines()[-1])["weights/digest_ok"] == 1

    account = struck.stop()
    assert (account.queue_restarts, account.engines_lost, account.engines_back) == (1, 2, 2)
    assert account.learner_restarts == 0 and not account.dropped
    graded = {Outcome.RIGHT, Outcome.WRONG, Outcome.UNPARSEABLE}
    assert {row["outcome"] for row in rollouts(struck.path)} <= graded  # no response counts as zero because its verifier died


def damage(run: Path) -> int:
    """Flip a byte in the newest checkpoint of a run; returns its step."""
    committed = [place for place in (run / "checkpoints").glob("step-*") if (place / "commit.json").exists()]
    newest = max(committed, key=lambda place: int(place.name.removeprefix("step-")))
    shard = next(newest.glob("__0_*.distcp"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    return int(newest.name.removeprefix("step-"))


def test_a_rank_the_driver_and_a_checkpoint_are_lost_and_the_run_equals_the_unbroken_one(gmpo: Gmpo, unbroken: Path) -> None:
    settings = (*SMALL, ALERT)
    process = gmpo.start("train", str(TINY), "run.name=run", *settings)
    run = gmpo.root / "run"
    gmpo.until(process, lambda: steps_logged(run) >= 3)
    gmpo.actors("RayTrainWorker")[1].kill()
    gmpo.until(process, lambda: steps_logged(run) >= 5 and happened(run, "committed") >= 2)
    assert happened(run, "learner") == 2
    process.kill()
    process.wait()
    assert gmpo.left_behind() == []
    trained = audit_run(run)[0].trained

    damaged = damage(run)
    gmpo.train("run", *settings)
    assert f"the checkpoint of step {damaged} is damaged and passed over: __0_" in gmpo.output.read_text()
    account = whole(run)
    assert (account.driver_restarts, account.learner_restarts) == (1, 1)
    again = audit_run(run)[0].trained
    assert {step: again[step] for step in trained} == trained  # what had been trained was trained on again, unchanged
    assert plain(run) == plain(unbroken)
    digests = [verify_version(place / "policies" / f"step-{STEPS}").weights_sha256 for place in (unbroken, run)]
    assert digests[0] == digests[1]


UNLIKE = ("learner/attempts", "weights/")
"""Told of restarts, and of engines: recorded steps are trained again before there are any."""


def plain(run: Path) -> list[dict[str, Any]]:
    """A run's metrics without those that a broken run cannot share, and those that tell of the clock."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if not name.startswith(UNLIKE)} for line in figures(lines)]
