"""Starting and stopping the HTTP endpoint of a run, on the Ray cluster at hand or a fresh one of this machine."""

from __future__ import annotations

import logging
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from types import TracebackType
from typing import Self

import ray
from ray import serve
from ray.serve.config import HTTPOptions
from ray.serve.context import _get_global_client  # Serve offers no public way to ask where it listens
from ray.serve.schema import ApplicationStatus

from actors.errors import ClusterError, EngineError, ModelError
from actors.weights.version import committed_steps
from services.policy.app import APP_NAME, ServeArgs, build
from services.policy.config import ServeConfig

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
POLL_S = 0.1


@dataclass(slots=True)
class Endpoint:
    """A running endpoint. Closing it takes down what starting it brought up: the application, Serve, Ray."""

    url: str
    owns_serve: bool
    owns_ray: bool

    def close(self) -> None:
        """Stop answering and end every process that was started; a second call does nothing."""
        if not ray.is_initialized():
            return
        if self.owns_serve and not self.owns_ray:
            serve.shutdown()  # type: ignore[no-untyped-call]
        elif _serving_port() is not None:
            serve.delete(APP_NAME)  # waits until the replica has stopped its engine
        if self.owns_ray:
            ray.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def serve_run(run_dir: Path, config: ServeConfig) -> Endpoint:
    """Start answering for a run and return once requests are served.

    Joins the Ray that is initialized in this process or that RAY_ADDRESS names, else starts one (with Ray's token authentication, its
    default). ModelError: no version to serve. ClusterError: the port is taken. EngineError: not ready in time, with the reason.
    """
    run_dir = run_dir.resolve()
    if not committed_steps(run_dir / "policies"):
        raise ModelError(f"{run_dir}: no policy version to serve yet")
    owns_ray = not ray.is_initialized()
    if owns_ray:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING)
    present = _serving_port()
    endpoint = Endpoint(url="", owns_serve=present is None, owns_ray=owns_ray)
    try:
        port = present or _free_port(config.port)
        if present is None:
            options = HTTPOptions(host=LOOPBACK, port=port, request_timeout_s=config.request_timeout_s)
            serve.start(proxy_location="HeadOnly", http_options=options)
        elif config.port not in (0, present):
            raise ClusterError(f"serve.port: this cluster's Serve listens on {present} already, not on {config.port}")
        endpoint.url = f"http://{LOOPBACK}:{port}"
        application = build(ServeArgs(run_dir=run_dir, serve=config))
        serve.run_many([serve.RunTarget(application, name=APP_NAME)], wait_for_applications_running=False)
        _await_ready(config.start_timeout_s)
    except BaseException:
        endpoint.close()
        raise
    return endpoint


def serve_until_interrupted(run_dir: Path, config: ServeConfig, on_ready: Callable[[Endpoint], None]) -> None:
    """Serve until Ctrl-C or SIGTERM, then leave no process behind; called on the main thread."""
    interrupted = Event()
    with serve_run(run_dir, config) as endpoint:
        previous = {number: signal.signal(number, lambda *_: interrupted.set()) for number in (signal.SIGINT, signal.SIGTERM)}
        on_ready(endpoint)
        interrupted.wait()
        for number, handler in previous.items():
            signal.signal(number, handler)


def _serving_port() -> int | None:
    """Where this cluster's Serve listens, if it runs."""
    client = _get_global_client(raise_if_no_controller_running=False)
    return int(client.http_config.port) if client else None


def _free_port(wanted: int) -> int:
    """The wanted port, or any free one for 0; asked beforehand, since Serve reports a taken port only in its proxy's log."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, wanted))
        except OSError:
            raise ClusterError(f"serve.port: {wanted} is taken") from None
        return int(probe.getsockname()[1])


def _await_ready(timeout_s: float) -> None:
    """Wait for the application; Serve has no call that waits with a deadline."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        application = serve.status().applications[APP_NAME]
        match application.status:
            case ApplicationStatus.RUNNING:
                return
            case ApplicationStatus.DEPLOY_FAILED | ApplicationStatus.UNHEALTHY:
                reasons = [deployment.message for deployment in application.deployments.values() if deployment.message]
                raise EngineError(f"the endpoint did not start: {'; '.join(reasons) or application.message}")
        time.sleep(POLL_S)
    raise EngineError(f"the endpoint was not ready after {timeout_s:g} s")
