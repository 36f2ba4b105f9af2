"""How requests reach a replica.

On a cluster of our own the one replica listens itself (Serve calls that direct ingress): no proxy between client and replica, which
would cost as much as a small model does. Several replicas, and clusters that someone else set up, are reached through the proxies that
Serve runs there.
"""

from __future__ import annotations

import os
import socket

from actors.errors import ClusterError
from services.policy.config import ServeConfig

_ON, _FIRST, _END = "RAY_SERVE_ENABLE_DIRECT_INGRESS", "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT", "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT"
_ALONE = {
    # No load balancer has to notice that the replica goes, and its successor takes its port.
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0",
    "RAY_SERVE_PORT_QUARANTINE_S": "0",
}


def prepare(config: ServeConfig) -> None:
    """Choose the way before a cluster of our own starts, which hands our environment on. ClusterError if the port is taken."""
    for name in (_ON, _FIRST, _END, *_ALONE):
        os.environ.pop(name, None)
    if config.replicas == 1:
        port = free_port(config.host, config.port)
        os.environ.update({_ON: "1", _FIRST: str(port), _END: str(port + 1)} | _ALONE)


def direct_port() -> int | None:
    """Where the one replica of our own cluster listens; None where Serve's proxies do."""
    return int(os.environ[_FIRST]) if os.environ.get(_ON) == "1" and _FIRST in os.environ else None


def free_port(host: str, wanted: int) -> int:
    """The wanted port, or any free one for 0; asked beforehand, since Serve reports a taken port only in its log."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, wanted))
        except OSError:
            raise ClusterError(f"serve.port: {wanted} is taken on {host}; choose another, or 0 for any free one") from None
        return int(probe.getsockname()[1])
