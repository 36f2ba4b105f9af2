"""A real Prometheus on a real short run that answers while it trains: every dashboard draws, and no alert fires."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from deploy.monitoring.expressions import DECLARED
from deploy.monitoring.files import BOARDS, FOLDER
from services.policy import keys
from services.policy.client import query
from services.policy.keys import Scope
from tests.deploy.tools import tool
from tests.integration.conftest import RUN_TIMEOUT_S, TINY, Gmpo
from tests.integration.conftest import gmpo as gmpo  # a fixture
from tests.integration.endpoint import bearer
from tests.ports import free_port

pytestmark = [pytest.mark.integration, pytest.mark.deploy, pytest.mark.timeout(400)]

STEPS = 2000
SMALL = (
    f"run.steps={STEPS}",
    "run.prompts_per_step=4",
    "run.export_every=2",
    "generation.group_size=4",
    "learner.updates_per_step=2",
    "learner.checkpoint_every=2",
    "prompts.held_out=4",
    "evaluation.every=2",
    "replay.max_staleness=1",
    "replay.dynamic_sampling=true",
    "learner.correction={type: tis}",
)


class Prometheus:
    """A server that answers queries."""

    def __init__(self, url: str) -> None:
        self.url = url

    def query(self, expr: str) -> list[dict[str, Any]]:
        """The series of an expression, now."""
        answer = httpx.get(f"{self.url}/api/v1/query", params={"query": expr}, timeout=10).raise_for_status().json()
        series: list[dict[str, Any]] = answer["data"]["result"]
        return series

    def value(self, expr: str) -> float:
        """The one value of an expression; 0 while it has none."""
        found = self.query(expr)
        return float(found[0]["value"][1]) if found else 0.0


@contextmanager
def prometheus(folder: Path, targets: dict[str, Any]) -> Iterator[Prometheus]:
    """Scrapes the targets every second and evaluates the chart's rules."""
    port = free_port()
    tree = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(FOLDER / "rules.yaml")],
        "scrape_configs": [{"job_name": name, **target} for name, target in targets.items()],
    }
    config = folder / "prometheus.yml"
    config.write_text(yaml.safe_dump(tree))
    storage = f"--storage.tsdb.path={folder / 'tsdb'}"
    command = [tool("prometheus"), f"--config.file={config}", storage, f"--web.listen-address=127.0.0.1:{port}"]
    with (folder / "prometheus.log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            yield Prometheus(f"http://127.0.0.1:{port}")
        finally:
            process.terminate()


def check_page(page: str) -> None:
    """Names, units and texts are as Prometheus wants them."""
    found = subprocess.run([tool("promtool"), "check", "metrics"], input=page, capture_output=True, text=True, timeout=60)
    assert found.returncode == 0, found.stdout + found.stderr


def soon(holds: Callable[[], bool], gmpo: Gmpo, process: subprocess.Popen[str]) -> None:
    """Wait for the run to come to some point, asking no more often than Prometheus looks."""

    def asked() -> bool:
        time.sleep(0.5)
        try:
            return holds()
        except httpx.HTTPError:  # whoever is asked is not up yet
            return False

    gmpo.until(process, asked)


def filled(expr: str) -> str:
    """An expression as Grafana would send it."""
    for variable, value in {"$window": "1m", "$run": "scraped", "$job": "endpoint"}.items():
        expr = expr.replace(variable, value)
    return expr


def test_every_picture_is_drawn_and_no_alert_fires_on_a_healthy_run(gmpo: Gmpo, tmp_path: Path) -> None:
    page, endpoint, keys_file, secret_file = free_port(), free_port(), tmp_path / "keys.json", tmp_path / "secret"
    secret, key = keys.make("prometheus", Scope.QUERY)
    keys.add(keys_file, key)
    secret_file.write_text(secret)
    serve = f"serve={{during_training: true, port: {endpoint}, poll_s: 0.2, keys_file: {keys_file}}}"
    process = gmpo.start("train", str(TINY), "run.name=scraped", *SMALL, serve, f"telemetry.prometheus.port={page}")
    targets = {
        "run": {"static_configs": [{"targets": [f"127.0.0.1:{page}"]}]},
        "endpoint": {
            "authorization": {"credentials_file": str(secret_file)},
            "static_configs": [{"targets": [f"127.0.0.1:{endpoint}"], "labels": {"gmpo_component": "endpoint"}}],
        },
    }
    url = f"http://127.0.0.1:{endpoint}"
    with prometheus(tmp_path, targets) as server:
        soon(lambda: httpx.get(f"{url}/health").is_success, gmpo, process)
        soon(lambda: server.value("gmpo_serve_engines") > 0, gmpo, process)
        query(url, "483920=", key=secret, max_tokens=8)
        at_first = server.value("gmpo_step_version")
        soon(lambda: server.value("gmpo_step_version") >= max(6, at_first + 3), gmpo, process)
        soon(lambda: server.value("sum(increase(gmpo_serve_requests_total[1m]))") > 0, gmpo, process)

        check_page(httpx.get(f"http://127.0.0.1:{page}/metrics").text)
        check_page(httpx.get(f"{url}/metrics", headers=bearer(secret)).text)
        assert httpx.get(f"{url}/metrics").status_code == 401
        panels = [panel for board in BOARDS.values() for panel in board.panels()]
        empty = {panel.title for panel in panels for target in panel.targets if not server.query(filled(target.expr))}
        assert empty == set()
        assert server.query('ALERTS{alertstate="firing"}') == []
        assert not [rule for rule in _rules(server) if rule["health"] != "ok"]
        check_values(server)
    process.terminate()
    assert process.wait(RUN_TIMEOUT_S) == 0, gmpo.output.read_text()


def check_values(server: Prometheus) -> None:
    """Figures that no step logs are there between steps, and add up with those that a step does."""
    assert server.value("gmpo_run_steps") == STEPS
    assert server.value("gmpo_staleness_bound_versions") == 1
    assert 0 <= server.value("time() - gmpo_step_began_timestamp_seconds") < 60
    assert server.value("gmpo_reward_responses_total") == 16 * server.value("gmpo_step_seconds_count")
    assert server.value("run:gmpo_step_deadline_seconds:max") >= 600
    assert server.value('gmpo_serve_requests_total{status="200"}') == 1  # scrapes and probes do not count
    names = {metric.prometheus_name for metric in DECLARED.values()}
    assert {series["metric"]["__name__"] for series in server.query('{__name__=~"gmpo_.+_total"}')} <= names


def _rules(server: Prometheus) -> list[dict[str, Any]]:
    groups = httpx.get(f"{server.url}/api/v1/rules").json()["data"]["groups"]
    return [rule for group in groups for rule in group["rules"]]
