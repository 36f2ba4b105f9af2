from __future__ import annotations

import pytest

from actors.errors import ClusterError
from services import cluster
from services.config import ClusterConfig
from tests.unit.recipes import tiny_recipe


def test_the_pools_ask_for_the_sum_of_their_shares() -> None:
    recipe = tiny_recipe(
        "generation.engines=3",
        "generation.cpus=2",
        "generation.tensor_parallel=4",
        "learner.ranks=2",
        "learner.cpus=1",
        "reference.actors=2",
        "reference.cpus=0.5",
        "reward.actors=4",
        "reward.cpus=0.25",
    )
    assert cluster.demand(recipe, gpu=False) == {"CPU": 10}
    assert cluster.demand(recipe, gpu=True) == {"CPU": 10, "GPU": 16}


def test_a_pool_that_is_left_out_asks_for_nothing() -> None:
    off, on = (cluster.demand(tiny_recipe(f"reference.enabled={enabled}"), gpu=True) for enabled in ("false", "true"))
    assert on["CPU"] - off["CPU"] == pytest.approx(0.1) and on["GPU"] - off["GPU"] == 1


def test_more_than_this_machine_has_is_refused_with_what_is_lacking() -> None:
    with pytest.raises(ClusterError, match=r"the cluster lacks .* CPU"):
        cluster.check_own(tiny_recipe("cluster.cpus=2", "generation.engines=9", "generation.cpus=1"), gpu=False)
    cluster.check_own(tiny_recipe("cluster.cpus=2"), gpu=False)


def test_what_another_cluster_has_is_not_known_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    greedy = tiny_recipe("cluster.cpus=1", "generation.engines=9", "generation.cpus=1", "cluster.address=ray://elsewhere:10001")
    cluster.check_own(greedy, gpu=False)
    monkeypatch.setenv("RAY_ADDRESS", "elsewhere:6379")
    cluster.check_own(tiny_recipe("cluster.cpus=1", "generation.engines=9", "generation.cpus=1"), gpu=False)


def test_actors_elsewhere_get_what_they_need_but_no_secret_and_nothing_twice() -> None:
    environment = {
        "NCCL_DEBUG": "WARN",
        "HF_HOME": "/models",
        "HF_TOKEN": "hf-1",
        "WANDB_PROJECT": "math",
        "WANDB_API_KEY": "w-1",
        "MLFLOW_TRACKING_URI": "https://ana:secret@mlflow.example.com",
        "MLFLOW_TRACKING_PASSWORD": "m-1",
        "PATH": "/bin",
    }
    assert cluster.passed_on(environment) == {"NCCL_DEBUG": "WARN", "HF_HOME": "/models", "WANDB_PROJECT": "math"}
    job = {"RAY_JOB_CONFIG_JSON_ENV_VAR": '{"runtime_env": {"env_vars": {"NCCL_DEBUG": "WARN"}}, "metadata": {}}'}
    assert cluster.passed_on(environment | job) == {"HF_HOME": "/models", "WANDB_PROJECT": "math"}


@pytest.mark.parametrize(("address", "mode"), [("10.0.0.1:6379", None), ("10.0.0.1:6379", "disabled"), (None, "disabled")])
def test_a_cluster_without_a_token_is_refused_before_it_is_reached(
    monkeypatch: pytest.MonkeyPatch, address: str | None, mode: str | None
) -> None:
    if mode:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
    with pytest.raises(ClusterError, match="RAY_AUTH_MODE"):
        cluster.connect(ClusterConfig(address=address))
