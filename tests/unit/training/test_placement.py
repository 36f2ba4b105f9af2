"""What fits where: worked out from the recipe and the nodes alone, without Ray."""

from __future__ import annotations

import asyncio

import pytest

from actors.errors import ClusterError, ConfigError
from services import cluster, placement
from services.training.pools import _transport
from tests.unit.recipes import tiny_recipe

GPUS = {"CPU": 16.0, "GPU": 4.0}
CPUS = {"CPU": 16.0}


def left_out(*overrides: str, nodes: list[dict[str, float]]) -> str:
    """What of the recipe, with GPUs, finds no room."""
    return placement.describe_all(placement.unplaced(placement.asks(tiny_recipe(*overrides), gpu=True), nodes))


def test_an_engine_must_fit_a_node_as_a_whole() -> None:
    settings = ("generation.tensor_parallel=3", "generation.engines=2", "reference.gpus=0", "learner.gpus=0")
    assert left_out(*settings, nodes=[GPUS, GPUS]) == ""
    halves = [{"CPU": 16.0, "GPU": 2.0}] * 4
    assert left_out(*settings, nodes=halves) == "2 of generation, each 0.25 CPU, 3 GPU on one node"


def test_what_fits_as_a_sum_but_on_no_node_is_named() -> None:
    left = left_out(
        "generation.tensor_parallel=2", "generation.engines=3", "reference.gpus=0", "learner.gpus=0", nodes=[{"CPU": 9, "GPU": 3}] * 2
    )
    assert left == "1 of generation, each 0.25 CPU, 2 GPU on one node"


def test_a_gpu_is_shared_by_pools_that_say_so() -> None:
    settings = ("learner.ranks=1", "learner.gpus=0.4", "reference.gpus=0.2", "generation.gpus=0.4", "generation.gpu_memory_share=0.4")
    assert left_out(*settings, nodes=[{"CPU": 4, "GPU": 1}]) == ""
    assert _transport(tiny_recipe(*settings), gpu=True) == "gloo"  # NCCL refuses two ranks on one device
    assert _transport(tiny_recipe("learner.ranks=1"), gpu=True) == "nccl"


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["generation.gpus=0.5"], "gpu_memory_share"),
        (["generation.gpus=0.5", "generation.gpu_memory_share=0.5", "generation.tensor_parallel=2"], "gpus"),
        (["learner.gpus=0.5", "learner.ranks=2"], "learner"),
        (["reference.gpus=1.5"], "reference.gpus"),
        (["reward.resources={GPU: 1}"], "reward.resources"),
        (["reward.resources={judges: 1.5}"], "reward.resources.judges"),
        (["reward.actors=3", "reward.max_actors=2"], "max_actors"),
        (["reference.actors=3", "reference.max_actors=2"], "max_actors"),
    ],
)
def test_shares_that_cannot_be_are_refused(overrides: list[str], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        tiny_recipe(*overrides)


def test_a_pool_goes_only_where_its_resources_are() -> None:
    settings = ("generation.resources={engines: 1}", "generation.engines=2", "reward.resources={judges: 0.5}", "reward.actors=2")
    assert placement.custom(tiny_recipe(*settings)) == {"engines": 2, "judges": 1}
    offering = [GPUS | {"engines": 1.0}, GPUS | {"engines": 1.0}, CPUS | {"judges": 1.0}]
    assert left_out(*settings, nodes=offering) == ""
    assert left_out(*settings, nodes=[GPUS | {"engines": 1.0}, GPUS, CPUS]) == (
        "1 of generation, each 0.25 CPU, 1 GPU, 1 engines on one node; 2 of reward, each 0.1 CPU, 0.5 judges on one node"
    )


def test_many_small_shares_fill_a_node_to_the_brim() -> None:
    asks = placement.asks(
        tiny_recipe("reward.actors=30", "reward.cpus=0.1", "generation.cpus=0", "learner.cpus=0", "reference.cpus=0"), gpu=False
    )
    assert placement.unplaced(asks, [{"CPU": 3.0}]) == []
    assert len(placement.unplaced(asks, [{"CPU": 2.9}])) == 1


FOREIGN = ("cluster.address=elsewhere:6379",)


def test_an_autoscaler_is_asked_for_the_room_and_released_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    requests: list[list[dict[str, float]]] = []
    grown = [{"CPU": 0.5}, CPUS | {"judges": 4.0}]
    monkeypatch.setattr(cluster, "request_resources", lambda bundles: requests.append(bundles))
    monkeypatch.setattr(cluster, "_nodes", lambda: grown if requests else grown[:1])
    monkeypatch.setattr(cluster, "POLL_S", 0)
    told: list[str] = []
    recipe = tiny_recipe(*FOREIGN, "reward.resources={judges: 1}", "reward.actors=3")
    asyncio.run(cluster.require(recipe, gpu=False, tell=told.append))
    asked, released = requests
    assert asked.count({"CPU": 0.1, "judges": 1}) == 3 and len(asked) == len(placement.asks(recipe, gpu=False))
    assert released == []
    assert len(told) == 1 and "reward" in told[0]


def test_what_no_node_can_hold_is_refused_by_name_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "request_resources", lambda bundles: None)
    monkeypatch.setattr(cluster, "_nodes", lambda: [{"CPU": 4.0, "GPU": 1.0}] * 5)
    monkeypatch.setattr(cluster, "POLL_S", 0)
    recipe = tiny_recipe(*FOREIGN, "cluster.wait_timeout_s=0.01", "generation.tensor_parallel=2", "learner.gpus=0", "reference.gpus=0")
    with pytest.raises(ClusterError, match=r"no node has room for 1 of generation, each 0.25 CPU, 2 GPU on one node"):
        asyncio.run(cluster.require(recipe, gpu=True, tell=lambda text: None))
