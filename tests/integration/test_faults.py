"""Processes that die or hang in the middle of a real run: it ends as if nothing had been, and its history breaks no rule.

Each test harms something once the run is under way. That the run comes to its last step in time is asserted by `Gmpo.disturb`.
`make chaos` harms at random, for longer.
"""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from actors.replay.audit import Account
from actors.weights.version import verify_version
from services.ledger import audit_run
from tests.integration.conftest import Gmpo

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

STEPS = 8
QUICK = (
    f"run.steps={STEPS}",
    "run.prompts_per_step=4",
    "run.export_every=4",
    "generation.group_size=4",
    "learner.updates_per_step=2",
    "learner.checkpoint_every=2",
    "prompts.held_out=0",
    "health={every_s: 1, answer_s: 10}",
)
AHEAD, SYNCHRONOUS = "replay.max_staleness=1", "replay.max_staleness=0"


def whole(run: Path) -> Account:
    """The account of a run that must have come to its end, every prompt trained once or dropped with a reason."""
    audit, violations = audit_run(run)
    assert violations == ()
    assert audit.finished and list(audit.trained) == list(range(1, STEPS + 1))
    return audit.account


def recorded_log(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("harm", [signal.SIGKILL, signal.SIGSTOP])
def test_an_engine_that_dies_or_hangs_is_replaced(gmpo: Gmpo, warm_model: Path, harm: signal.Signals) -> None:
    run = gmpo.disturb(2, "run", lambda _: gmpo.actors("Engine")[0].send_signal(harm), *QUICK, AHEAD, "generation.engines=2")
    account = whole(run)
    assert account.engines_lost == account.engines_back == 1 and account.learner_restarts == 0
    assert recorded_log(run)[-1]["weights/digest_ok"] == 1
    assert not account.dropped


def test_the_only_engine_dies(gmpo: Gmpo, warm_model: Path) -> None:
    account = whole(gmpo.disturb(2, "run", lambda _: gmpo.actors("Engine")[0].kill(), *QUICK, AHEAD))
    assert account.engines_lost == account.engines_back == 1 and account.learner_restarts == 0


@pytest.mark.parametrize("kind", ["Verifier", "ReferenceScorer"])
def test_a_verifier_or_scorer_dies(gmpo: Gmpo, warm_model: Path, kind: str) -> None:
    account = whole(gmpo.disturb(2, "run", lambda _: gmpo.actors(kind)[0].kill(), *QUICK, AHEAD))
    assert not account.dropped


def test_the_queue_dies(gmpo: Gmpo, warm_model: Path) -> None:
    account = whole(gmpo.disturb(3, "run", lambda _: gmpo.actors("ReplayQueue")[0].kill(), *QUICK, AHEAD))
    assert account.queue_restarts == 1 and not account.dropped


def test_a_learner_rank_dies_and_the_weights_are_those_of_an_unbroken_run(gmpo: Gmpo, warm_model: Path) -> None:
    unbroken = gmpo.train("unbroken", *QUICK, SYNCHRONOUS)
    run = gmpo.disturb(3, "run", lambda _: gmpo.actors("RayTrainWorker")[1].kill(), *QUICK, SYNCHRONOUS)
    assert whole(run).learner_restarts == 1
    digests = [verify_version(place / "policies" / f"step-{STEPS}").weights_sha256 for place in (unbroken, run)]
    assert digests[0] == digests[1]


@pytest.mark.parametrize("staleness", [SYNCHRONOUS, AHEAD])
def test_the_driver_dies_and_the_same_command_goes_on(gmpo: Gmpo, warm_model: Path, staleness: str) -> None:
    run = gmpo.disturb(5, "run", lambda driver: driver.kill(), *QUICK, staleness, status=-signal.SIGKILL)
    assert gmpo.left_behind() == []
    trained = audit_run(run)[0].trained
    gmpo.train("run", *QUICK, staleness)
    account = whole(run)
    assert account.driver_restarts == 1
    again = audit_run(run)[0].trained
    assert {step: again[step] for step in trained} == trained  # what had been trained was trained on again, unchanged
