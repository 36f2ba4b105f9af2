"""The Ray cluster of a run: connecting, what the pools ask of it, and where they are placed."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable

import ray
from ray._private import ray_constants
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from actors.errors import ClusterError
from services.config import ClusterConfig, Recipe

PASSED_ON = ("HF_", "WANDB_", "MLFLOW_", "NCCL_", "GLOO_")
"""Prefixes of environment variables that reach every actor of a foreign cluster; on one of our own, all do."""
PAYLOADS_STAY = {"RAY_max_direct_call_object_size": str(16 * 1024)}
"""Environment of actors that make groups: from 16 KiB on these stay in the object store of their node. Ray's own limit is 100 KiB; what
is smaller travels with the answer to the driver, and from there with the call to the next pool."""
SECRET = ("TOKEN", "KEY", "PASSWORD", "SECRET")


def has_gpu(config: ClusterConfig) -> bool:
    """Whether the run uses GPUs: what the recipe says, or whether this machine (or the connected cluster) has any."""
    if config.device != "auto":
        return config.device == "gpu"
    if ray.is_initialized():
        return bool(ray.cluster_resources().get("GPU", 0) > 0)
    return local_gpus() > 0


def local_gpus() -> int:
    """GPUs of this machine."""
    if shutil.which("nvidia-smi") is None:
        return 0
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False).stdout
    return sum(line.startswith("GPU ") for line in listed.splitlines())


def is_own_cluster(config: ClusterConfig) -> bool:
    """Whether the run starts a cluster of its own on this machine."""
    return (config.address or os.environ.get("RAY_ADDRESS", "local")) == "local"


def connect(config: ClusterConfig) -> None:
    """Connect to the recipe's cluster or start one. Fails closed: no listening Ray without token authentication."""
    if is_own_cluster(config):
        _refuse_open(config, os.environ.get("RAY_AUTH_MODE", "token"))  # unset, Ray's own local cluster turns token authentication on
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # of this run alone: no file that others could read
        ray_constants.ENABLE_RAY_CLUSTER = False  # every process of it listens on loopback; Ray has this only as a variable read at import
        ray.init(
            address="local",  # never one that happens to run here
            num_cpus=int(config.cpus) if config.cpus else None,
            include_dashboard=False,
            object_store_memory=config.object_store_mib * 2**20,
            log_to_driver=config.log_to_driver,
            logging_level=logging.ERROR,
        )
        return
    _refuse_open(config, os.environ.get("RAY_AUTH_MODE"))
    ray.init(
        address=config.address or "auto",
        log_to_driver=config.log_to_driver,
        logging_level=logging.ERROR,
        runtime_env={"env_vars": {name: value for name, value in os.environ.items() if _passed_on(name)}},
    )


def _passed_on(name: str) -> bool:
    """Ray writes what it passes on into its log files: secrets are the cluster's to give."""
    return name.startswith(PASSED_ON) and not name.endswith(SECRET)


def _refuse_open(config: ClusterConfig, mode: str | None) -> None:
    if mode != "token" and not config.allow_open:
        raise ClusterError(
            "cluster: RAY_AUTH_MODE is not 'token': whoever reaches an open cluster can run code on it; "
            "set cluster.allow_open=true only where someone else secures it"
        )


def demand(recipe: Recipe, *, gpu: bool) -> dict[str, float]:
    """The sum of what all pools ask for."""
    generation, learner, reference, reward = recipe.generation, recipe.learner, recipe.reference, recipe.reward
    scorers = reference.actors if reference.enabled else 0
    cpus = generation.engines * generation.cpus + learner.ranks * learner.cpus + scorers * reference.cpus + reward.actors * reward.cpus
    if recipe.serve.during_training:
        cpus += recipe.serve.replicas * recipe.serve.cpus
    gpus = generation.engines * generation.tensor_parallel + learner.ranks * learner.gpus + scorers * reference.gpus
    if recipe.serve.during_training:
        gpus += recipe.serve.replicas * recipe.serve.gpus
    return {"CPU": cpus, "GPU": gpus} if gpu else {"CPU": cpus}


def check_own(recipe: Recipe, *, gpu: bool) -> None:
    """Refuse a recipe that asks for more than this machine has, where the cluster is to be this machine; nothing is started."""
    if is_own_cluster(recipe.cluster):
        offered = {"CPU": recipe.cluster.cpus or float(os.cpu_count() or 1), "GPU": float(local_gpus())}
        _refuse_missing(demand(recipe, gpu=gpu), offered)


async def require(recipe: Recipe, *, gpu: bool, tell: Callable[[str], None]) -> None:
    """Wait until the cluster offers what the pools ask for; ClusterError where it cannot, or not in time."""
    wanted = demand(recipe, gpu=gpu)
    deadline = time.monotonic() + (0 if is_own_cluster(recipe.cluster) else recipe.cluster.wait_timeout_s)
    while missing := _missing(wanted, ray.cluster_resources()):
        if time.monotonic() >= deadline:
            _refuse_missing(wanted, ray.cluster_resources())
        tell(f"waiting for the cluster to offer {_text(missing)} more")
        await asyncio.sleep(5)


def _refuse_missing(wanted: dict[str, float], offered: dict[str, float]) -> None:
    if missing := _missing(wanted, offered):
        raise ClusterError(f"cluster: the pools ask for {_text(wanted)}; the cluster lacks {_text(missing)}")


def _missing(wanted: dict[str, float], offered: dict[str, float]) -> dict[str, float]:
    return {name: amount - offered.get(name, 0) for name, amount in wanted.items() if amount > offered.get(name, 0)}


def _text(resources: dict[str, float]) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in resources.items())


def engine_group(recipe: Recipe, *, gpu: bool) -> PlacementGroup:
    """One bundle per vLLM worker of one engine, packed on a node; the driver holds it for the whole run."""
    generation = recipe.generation
    bundle = {"CPU": max(generation.cpus, 0.01)} | ({"GPU": 1} if gpu else {})
    group: PlacementGroup = placement_group([bundle] * generation.tensor_parallel, strategy="PACK")
    return group


def release(groups: list[PlacementGroup]) -> None:
    """Give placement groups back."""
    for group in groups:
        remove_placement_group(group)
