"""What the chart renders is run: its entrypoint as a Ray job, its Serve configuration by `serve deploy`, on a local head with a token.

Only what belongs to a pod is put elsewhere: mounted folders, and the ports and addresses that are listened on.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from services.policy import keys
from services.policy.keys import Scope
from tests.deploy.chart import CHART, Object, of_kind, render, the
from tests.integration.conftest import Gmpo
from tests.integration.endpoint import bearer
from tests.integration.head import RAY, Head, running_head, status
from tests.ports import free_port

pytestmark = [pytest.mark.integration, pytest.mark.deploy, pytest.mark.timeout(600)]

SHORT = {
    "run": {"steps": 2, "prompts_per_step": 4, "export_every": 2},
    "generation": {"group_size": 4},
    "learner": {"updates_per_step": 2, "checkpoint_every": 2, "ranks": 1},
    "prompts": {"held_out": 0},
    "evaluation": {"every": 0},
}
READY_S = 180.0


@dataclass
class Installed:
    """The chart's objects, and where this machine has what they name."""

    objects: list[Object]
    root: Path
    serve_port: int
    metrics_port: int

    def here(self, text: str) -> str:
        """A text of the chart with this machine's folders, addresses and ports."""
        moved = text.replace("/runs", f"{self.root}/runs").replace("/etc/gmpo", f"{self.root}/etc").replace("0.0.0.0", "127.0.0.1")
        return moved.replace("port=9400", f"port={self.metrics_port}").replace("port: 8000", f"port: {self.serve_port}")

    @property
    def job(self) -> Object:
        """The RayJob's specification."""
        spec: Object = the(self.objects, "RayJob")["spec"]
        return spec

    @property
    def environment(self) -> dict[str, str]:
        """Of the training head's container."""
        container = self.job["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
        return {variable["name"]: self.here(variable["value"]) for variable in container["env"]}

    @property
    def serve_config(self) -> str:
        """The endpoint's configuration, as `serve deploy` takes it."""
        return self.here(the(self.objects, "RayService")["spec"]["serveConfigV2"])


@pytest.fixture
def installed(tmp_path: Path) -> Installed:
    """The tiny values, shortened, with recipe and keys where the pod would mount them."""
    found = Installed(render(CHART / "ci" / "tiny-values.yaml", {"recipe": SHORT}), tmp_path, free_port(), free_port())
    (recipe,) = [one for one in of_kind(found.objects, "ConfigMap") if "recipe.yaml" in one["data"]]
    for folder in ("recipe", "keys"):
        (tmp_path / "etc" / folder).mkdir(parents=True)
    (tmp_path / "etc" / "recipe" / "recipe.yaml").write_text(found.here(recipe["data"]["recipe.yaml"]))
    return found


@pytest.fixture
def head(gmpo: Gmpo, installed: Installed) -> Iterator[Head]:
    """A head with the container's environment."""
    with running_head(gmpo, **installed.environment) as running:
        yield running


def test_the_chart_trains_and_answers_whoever_has_a_key(gmpo: Gmpo, warm_model: Path, installed: Installed, head: Head) -> None:
    assert_a_wrong_token_opens_nothing(head)
    submit = (str(RAY), "job", "submit", f"--address={head.url}")
    entrypoint = installed.here(installed.job["entrypoint"]).split()
    printed = head.run(*submit, "--", *entrypoint, timeout_s=300)
    assert "all 2 steps are done" in printed
    run = Path(installed.environment["GMPO_RUN_ROOT"]) / "tiny"
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 2
    assert (run / "policies" / "step-2" / "manifest.json").exists()

    secret, key = keys.make("ana", Scope.QUERY)
    keys.add(installed.root / "etc" / "keys" / "keys.json", key)
    config = installed.root / "serve.yaml"
    config.write_text(installed.serve_config)
    head.run("serve", "deploy", str(config), f"--address={head.url}")
    url = f"http://127.0.0.1:{installed.serve_port}"
    await_healthy(url, gmpo)
    question = {"model": "policy@step-2", "prompt": "483920=", "max_tokens": 8}
    assert httpx.post(f"{url}/v1/completions", json=question, timeout=60).status_code == 401
    answer = httpx.post(f"{url}/v1/completions", json=question, headers=bearer(secret), timeout=60)
    assert answer.status_code == 200 and answer.json()["choices"], answer.text


def await_healthy(url: str, gmpo: Gmpo) -> None:
    """Until the endpoint says that it can answer."""
    deadline = time.monotonic() + READY_S
    while not is_healthy(url):
        assert time.monotonic() < deadline, gmpo.output.read_text()
        time.sleep(0.2)


def is_healthy(url: str) -> bool:
    """Whether its health route says so; nobody needs a key for that."""
    try:
        return httpx.get(f"{url}/health", timeout=5).is_success
    except httpx.HTTPError:
        return False


def assert_a_wrong_token_opens_nothing(head: Head) -> None:
    """Neither the jobs nor the cluster itself."""
    jobs = f"{head.url}/api/jobs/"
    assert [status(jobs, token) for token in (head.token, None, "0" * 64)] == [200, 401, 403]
    submitted = head.try_run(str(RAY), "job", "submit", f"--address={head.url}", "--", "true", RAY_AUTH_TOKEN="0" * 64)
    assert submitted.returncode != 0 and "token authentication" in submitted.stderr
    joining = (sys.executable, "-c", f"import ray; ray.init(address={head.address!r}, logging_level='ERROR')")
    stranger = head.try_run(*joining, RAY_AUTH_TOKEN="0" * 64)
    assert stranger.returncode != 0 and "token" in stranger.stderr.lower()
    assert head.try_run(*joining).returncode == 0
