"""A run over several Ray nodes, each pool on its own, and nodes that are lost in the middle of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from services.ledger import audit_run
from tests.integration.conftest import AHEAD, ALERT, QUICK, TINY, Gmpo, happened, steps_logged
from tests.integration.head import Head, Node, running_head

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

STEPS = 2000
SOON = "weights={connect_timeout_s: 20, control_timeout_s: 20}"
"""How long a publication waits for an engine that went with its node."""
PLACED = ("generation.resources={engines: 1}", "learner.resources={ranks: 1}", "generation.engines=2", "learner.ranks=1")


@pytest.fixture
def cluster(gmpo: Gmpo) -> Iterator[Head]:
    """A head that notices within seconds that a node is gone."""
    with running_head(gmpo, RAY_health_check_period_ms="500", RAY_health_check_timeout_ms="2000") as head:
        yield head


def nodes_of(kind: str, gmpo: Gmpo, nodes: list[Node]) -> list[int]:
    """On which nodes the actors of a class are, by the nodes' places in the list."""
    return sorted(index for actor in gmpo.actors(kind) for index, node in enumerate(nodes) if node.has(actor))


def test_pools_stay_on_their_nodes_and_the_run_gets_over_the_loss_of_each(gmpo: Gmpo, warm_model: Path, cluster: Head) -> None:
    engines, _, ranks = cluster.join(2, engines=2), cluster.join(2, engines=2), cluster.join(2, ranks=1)
    run = gmpo.root / "run"
    settings = (*QUICK, ALERT, AHEAD, SOON, *PLACED, "run.name=run", f"run.steps={STEPS}")
    driver = gmpo.start("train", str(TINY), *settings, **cluster.environment, RAY_ADDRESS=cluster.address)

    def goes_on(steps: int = 2) -> None:
        target = steps_logged(run) + steps
        gmpo.until(driver, lambda: steps_logged(run) >= target)

    goes_on(3)
    assert nodes_of("Engine", gmpo, cluster.nodes) == [1, 2]  # spread, though either node could hold both
    assert nodes_of("RayTrainWorker", gmpo, cluster.nodes) == [3]

    engines.kill()
    gmpo.until(driver, lambda: happened(run, "engine_back") >= 1)
    assert nodes_of("Engine", gmpo, cluster.nodes) == [2, 2]
    goes_on()

    cluster.join(2, ranks=1)
    ranks.kill()
    gmpo.until(driver, lambda: happened(run, "learner") == 2)
    goes_on()
    assert nodes_of("RayTrainWorker", gmpo, cluster.nodes) == [4]

    driver.terminate()
    assert driver.wait(120) == 0, gmpo.output.read_text()
    audit, violations = audit_run(run)
    assert violations == ()
    assert list(audit.trained) == list(range(1, audit.account.steps + 1))
    assert audit.account.engines_lost >= 1 and audit.account.learner_restarts == 1
