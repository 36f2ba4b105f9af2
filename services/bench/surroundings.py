"""What the benchmarks of the pipeline stand on: a Ray cluster of their own, a recipe of which only the control is real, and gauges of what
the driver takes in.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psutil
import ray

from services import cluster
from services.config import ClusterConfig, Recipe, parse_recipe

BYTES_RECEIVED = 128
"""Where Linux keeps `tcpi_bytes_received` in `struct tcp_info`: 64 bits."""


@contextmanager
def own_cluster(*, object_store_mib: int = 512) -> Iterator[None]:
    """A Ray cluster on this machine for as long as the block lasts."""
    cluster.connect(ClusterConfig(address="local", object_store_mib=object_store_mib))
    try:
        yield
    finally:
        ray.shutdown()


def place(kind: type[Any], *arguments: Any, concurrency: int | None = None, environment: Mapping[str, str] | None = None) -> Any:
    """An actor of this class on that cluster; its handle."""
    options: dict[str, Any] = {"num_cpus": 0} | ({"max_concurrency": concurrency} if concurrency else {})
    if environment:
        options["runtime_env"] = {"env_vars": dict(environment)}
    return ray.remote(kind).options(**options).remote(*arguments)


def control_recipe(root: Path, *, steps: int, prompts_per_step: int, max_staleness: int, **generation: Any) -> Recipe:
    """A run whose queue and conductor are real, and whose engines, verifiers and learner may be anything."""
    return parse_recipe(
        {
            "run": {"name": "bench", "root": str(root), "steps": steps, "prompts_per_step": prompts_per_step, "record_share": 0},
            "prompts": {"source": {"type": "digits", "task": "reverse", "digits": 2}, "max_tokens": 32, "held_out": 0},
            "generation": {"max_tokens": 16, **generation},
            "reference": {"enabled": False},
            "replay": {"max_staleness": max_staleness},
            "learner": {"updates_per_step": 1},
        }
    )


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("", 0))
        return int(listener.getsockname()[1])


def received_bytes() -> int:
    """Bytes that came over this process's open TCP connections, by the kernel's count: all that Ray sends it outside the object store."""
    total = 0
    for connection in psutil.Process().net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN:
            continue
        with closing(socket.fromfd(connection.fd, connection.family, connection.type)) as ours:
            (received,) = struct.unpack_from("Q", ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256), BYTES_RECEIVED)
            total += received
    return total


def touched_store_bytes() -> int:
    """Bytes of shared memory that this process has mapped in: pages of the object store that it ever read or wrote."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssShmem:"))
