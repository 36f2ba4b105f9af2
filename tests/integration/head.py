"""A Ray cluster of a test's own on loopback: a head with token authentication, and nodes that join and die."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import psutil

from tests.integration.conftest import MARK, Gmpo
from tests.ports import free_port

RAY = Path(sys.executable).with_name("ray")
START_S, END_S = 120.0, 15.0
STORE_BYTES = 150_000_000
NODE_MARK = "GMPO_TEST_NODE"
"""In the environment of all processes of a node."""


def status(url: str, token: str | None) -> int:
    """HTTP status of the dashboard's answer; 0 while nothing listens."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with urlopen(Request(url, headers=headers), timeout=5) as answer:
            return int(answer.status)
    except HTTPError as error:
        return error.code
    except (URLError, OSError):
        return 0


@dataclass(frozen=True)
class Node:
    """The processes of one Ray node, found by what they carry in their environment."""

    mark: str

    def kill(self) -> None:
        """As a machine that loses its power: everything at once, nobody is asked."""
        struck = [process for process in psutil.process_iter() if self.has(process)]
        for process in struck:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(struck, timeout=END_S)

    def has(self, process: psutil.Process) -> bool:
        """Whether a process belongs to this node."""
        try:
            return process.environ().get(NODE_MARK) == self.mark
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            return False


@dataclass
class Head:
    """A head node, the nodes that joined it, and what a client needs."""

    url: str  # of the dashboard
    address: str  # of the GCS
    environment: dict[str, str]
    output: Path
    nodes: list[Node] = field(default_factory=list)

    @property
    def token(self) -> str:
        """The cluster's secret."""
        return Path(self.environment["RAY_AUTH_TOKEN_PATH"]).read_text()

    def start_node(self, *arguments: str) -> Node:
        """Start a Ray node by these arguments of `ray start`; returns when it is up."""
        node = Node(secrets.token_hex(8))
        self.nodes.append(node)
        command = [str(RAY), "start", "--node-ip-address=127.0.0.1", f"--object-store-memory={STORE_BYTES}", *arguments]
        command.append(f"--dashboard-agent-listen-port={free_port()}")
        with self.output.open("a") as output:
            done = subprocess.run(
                command, env=self.environment | {NODE_MARK: node.mark}, stdout=output, stderr=output, timeout=START_S, check=False
            )
        assert done.returncode == 0, self.output.read_text()
        return node

    def join(self, cpus: int, **resources: float) -> Node:
        """Have another node join, that offers these."""
        return self.start_node(f"--address={self.address}", f"--num-cpus={cpus}", f"--resources={json.dumps(resources)}")

    def await_answer(self) -> None:
        """Until the dashboard answers who has the token."""
        deadline = time.monotonic() + START_S
        while status(f"{self.url}/api/version", self.token) != 200:
            assert time.monotonic() < deadline, self.output.read_text()
            time.sleep(0.2)

    def run(self, *command: str, cwd: Path | None = None, timeout_s: float = 240, **environment: str) -> str:
        """Run a client of the cluster to its end; what it printed."""
        done = self.try_run(*command, cwd=cwd, timeout_s=timeout_s, **environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def try_run(
        self, *command: str, cwd: Path | None = None, timeout_s: float = 240, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a client of the cluster; how it ended."""
        return subprocess.run(
            command, cwd=cwd, env=self.environment | environment, capture_output=True, text=True, timeout=timeout_s, check=False
        )


@contextmanager
def running_head(gmpo: Gmpo, *arguments: str, **environment: str) -> Iterator[Head]:
    """A head that answers, with a token in a file that only its owner reads; all its nodes are gone at the end."""
    token = gmpo.root / "ray-token"
    token.touch(0o600)
    token.write_text(secrets.token_hex(32))
    own = {name: value for name, value in os.environ.items() if not re.match("RAY_(ADDRESS|AUTH)", name)}
    own |= {MARK: gmpo.mark, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_USAGE_STATS_ENABLED": "0"}
    own["PATH"] = f"{RAY.parent}:{own['PATH']}"
    port, dashboard = free_port(), free_port()
    head = Head(f"http://127.0.0.1:{dashboard}", f"127.0.0.1:{port}", own | environment, gmpo.output)
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as directory:  # short: sockets lie in it
        try:
            ports = (f"--port={port}", f"--dashboard-port={dashboard}", f"--ray-client-server-port={free_port()}")
            head.start_node("--head", *ports, "--num-cpus=4", f"--temp-dir={directory}", *arguments)
            head.await_answer()
            yield head
        finally:
            for node in reversed(head.nodes):
                node.kill()
