"""The Ray cluster of a run: connecting, and waiting until it offers what the pools ask for."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import urlsplit

import ray
from ray._private import ray_constants
from ray.autoscaler.sdk import request_resources

from actors.errors import ClusterError
from services import placement
from services.config import ClusterConfig, Recipe
from services.placement import Ask, Resources

PASSED_ON = ("HF_", "WANDB_", "MLFLOW_", "NCCL_", "GLOO_")
"""Prefixes of environment variables that reach every actor of a foreign cluster; on one of our own, all do."""
PAYLOADS_STAY = {"RAY_max_direct_call_object_size": str(16 * 1024)}
"""Environment of actors that make groups: from 16 KiB on these stay in the object store of their node. Ray's own limit is 100 KiB; what
is smaller travels with the answer to the driver, and from there with the call to the next pool."""
SECRET = ("TOKEN", "KEY", "PASS", "SECRET", "CREDENTIAL")
POLL_S = 2.0


def has_gpu(config: ClusterConfig) -> bool:
    """Whether the run uses GPUs: what the recipe says, or whether this machine (or the connected cluster) has any."""
    if config.device != "auto":
        return config.device == "gpu"
    if ray.is_initialized():
        return bool(ray.cluster_resources().get("GPU", 0) > 0)
    return local_gpus() > 0


def knows_gpus(config: ClusterConfig) -> bool:
    """Whether `has_gpu` can say; a cluster of others only once it is connected: the driver's machine may be the one without GPUs."""
    return config.device != "auto" or ray.is_initialized() or is_own_cluster(config)


def local_gpus() -> int:
    """GPUs of this machine."""
    if shutil.which("nvidia-smi") is None:
        return 0
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False).stdout
    return sum(line.startswith("GPU ") for line in listed.splitlines())


def is_own_cluster(config: ClusterConfig) -> bool:
    """Whether the run starts a cluster of its own on this machine."""
    return (config.address or os.environ.get("RAY_ADDRESS", "local")) == "local"


def connect(config: ClusterConfig, *, custom: Resources | None = None) -> None:
    """Connect to the recipe's cluster or start one, which then offers these custom resources: it has but one node to choose from.

    Fails closed: no listening Ray without token authentication.
    """
    if is_own_cluster(config):
        _refuse_open(config, os.environ.get("RAY_AUTH_MODE", "token"))  # unset, Ray's own local cluster turns token authentication on
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # of this run alone: no file that others could read
        ray_constants.ENABLE_RAY_CLUSTER = False  # every process of it listens on loopback; Ray has this only as a variable read at import
        ray.init(
            address="local",  # never one that happens to run here
            num_cpus=int(config.cpus) if config.cpus else None,
            resources=dict(custom or {}),
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
        runtime_env={"env_vars": passed_on(os.environ)},
    )


def passed_on(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that every actor of a foreign cluster gets from the driver.

    Not secrets, since Ray writes what it passes on into its log files: those are the cluster's to give. And not what the job's own
    runtime environment passes on already: Ray refuses a name that comes twice.
    """
    job = json.loads(environment.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")).get("runtime_env") or {}
    already = job.get("env_vars") or {}
    return {
        name: value
        for name, value in environment.items()
        if name.startswith(PASSED_ON) and name not in already and not _is_secret(name, value)
    }


def _is_secret(name: str, value: str) -> bool:
    return any(word in name for word in SECRET) or bool(urlsplit(value).password)


def _refuse_open(config: ClusterConfig, mode: str | None) -> None:
    if mode != "token" and not config.allow_open:
        raise ClusterError(
            "cluster: RAY_AUTH_MODE is not 'token': whoever reaches an open cluster can run code on it; "
            "set cluster.allow_open=true only where someone else secures it"
        )


def demand(recipe: Recipe, *, gpu: bool) -> dict[str, float]:
    """The sum of what all pools ask for."""
    return placement.summed([ask.total for ask in placement.asks(recipe, gpu=gpu)])


def check_own(recipe: Recipe, *, gpu: bool) -> None:
    """Refuse a recipe that asks for more than this machine has, where the cluster is to be this machine; nothing is started."""
    if is_own_cluster(recipe.cluster):
        offered = {"CPU": recipe.cluster.cpus or float(os.cpu_count() or 1), "GPU": float(local_gpus())}
        _refuse(placement.asks(recipe, gpu=gpu), [offered | placement.custom(recipe)])


async def require(recipe: Recipe, *, gpu: bool, tell: Callable[[str], None]) -> None:
    """Wait until the cluster has room for all pools; ClusterError, naming what finds none, where it has not in time.

    An autoscaler is asked to make that room meanwhile, a node's worth for each engine and actor.
    """
    wanted = placement.asks(recipe, gpu=gpu)
    deadline = time.monotonic() + (0 if is_own_cluster(recipe.cluster) else recipe.cluster.wait_timeout_s)
    told = ""
    try:
        while left := placement.unplaced(wanted, _nodes()):
            if time.monotonic() >= deadline:
                _refuse(wanted, _nodes())
            if (lacking := placement.describe_all(left)) != told:
                request_resources(bundles=[ask.total for ask in wanted])
                tell(f"waiting for the cluster to have room for {lacking}")
                told = lacking
            await asyncio.sleep(POLL_S)
    finally:
        if told:
            request_resources(bundles=[])  # else the cluster would keep this room after the run


def _nodes() -> list[Resources]:
    """What each living node offers in all."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _refuse(wanted: Sequence[Ask], nodes: Sequence[Resources]) -> None:
    """Raise where something finds no room: with what the cluster lacks as a whole or, if nothing, what fits none of its nodes."""
    left = placement.unplaced(wanted, nodes)
    if not left:
        return
    total, offered = placement.summed([ask.total for ask in wanted]), placement.summed(nodes)
    lacking = {name: round(amount - offered.get(name, 0), 4) for name, amount in total.items() if amount > offered.get(name, 0)}
    if lacking:
        raise ClusterError(f"cluster: the pools ask for {placement.describe(total)}; the cluster lacks {placement.describe(lacking)}")
    raise ClusterError(f"cluster: no node has room for {placement.describe_all(left)}")
