"""Starting and stopping the HTTP endpoint of a run, on the Ray cluster at hand or a fresh one of this machine."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from types import TracebackType
from typing import Self

import ray
from ray import serve
from ray.serve.config import HTTPOptions
from ray.serve.context import _disconnect, _get_global_client  # Serve has no public way to ask where it listens, nor to forget it
from ray.serve.schema import ApplicationStatus

from actors.errors import ClusterError, EngineError, ModelError
from services.cluster import connect, is_own_cluster
from services.config import ClusterConfig
from services.policy import ingress
from services.policy.app import APP_NAME, ServeArgs, build
from services.policy.catalogue import Catalogue
from services.policy.config import ServeConfig
from services.policy.keys import Scope, make

log = logging.getLogger(__name__)

POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A running endpoint. Closing it takes down what starting it brought up: the application, Serve, Ray."""

    url: str
    key: str | None  # an admin key for its lifetime, beside those of serve.keys_file; None where it is open
    undo: ExitStack

    def close(self) -> None:
        """Stop answering and end every process that was started; a second call does nothing."""
        self.undo.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def serve_run(run_dir: Path, config: ServeConfig, *, policies: str | None = None) -> Endpoint:
    """Start answering for a run and return once requests are served; `policies` is where its versions are, by default in its directory.

    Uses the Ray that is initialized in this process or that RAY_ADDRESS names, else starts one (with token authentication, Ray's
    default). ModelError: no version to serve. ClusterError: the port is taken. EngineError: not ready in time, with the reason.
    """
    run_dir = run_dir.resolve()
    if not Catalogue(policies or run_dir / "policies").steps():
        raise ModelError(f"{run_dir}: no policy version to serve yet")
    secret, key = make("operator", Scope.ADMIN)
    logging.getLogger("ray.serve").setLevel(logging.WARNING)  # its progress would stand among the caller's lines
    fresh = not ray.is_initialized() and is_own_cluster(ClusterConfig())
    with ExitStack() as undo:
        if not ray.is_initialized():
            if fresh:
                ingress.prepare(config)
            connect(ClusterConfig())
            undo.callback(ray.shutdown)
        url = _listen(config, fresh, undo)
        application = build(ServeArgs(run_dir=run_dir, policies=policies, serve=config, keys=() if config.open else (key,)))
        serve.run_many([serve.RunTarget(application, name=APP_NAME)], wait_for_applications_running=False)
        _await_ready(config.start_timeout_s)
        if fresh:
            # Waits until the replica has stopped its engine. One that never got ready dies with its cluster, which is quicker.
            undo.callback(serve.delete, APP_NAME)
        return Endpoint(url, None if config.open else secret, undo.pop_all())


def _listen(config: ServeConfig, fresh: bool, undo: ExitStack) -> str:
    """Have Serve listen, and return where clients ask."""
    direct, port = ingress.direct_port(), _serving_port()
    if port is None:
        port = ingress.free_port(config.host, 0 if direct else config.port)
        # Serve ends with a cluster of our own. Its handle must be forgotten then: the next local cluster has the same job number, by
        # which Serve tells whether a handle is stale.
        undo.callback(_disconnect if fresh else serve.shutdown)
        options = HTTPOptions(host=config.host, port=port, request_timeout_s=config.request_timeout_s)
        serve.start(proxy_location="HeadOnly", http_options=options)
    elif direct is None and config.port not in (0, port):
        raise ClusterError(f"serve.port: this cluster's Serve listens on {port} already, not on {config.port}")
    else:
        undo.callback(serve.delete, APP_NAME)
    return f"http://{config.host}:{direct or port}"


def serve_until_interrupted(
    run_dir: Path, config: ServeConfig, on_ready: Callable[[Endpoint], None], *, policies: str | None = None
) -> None:
    """Serve until Ctrl-C or SIGTERM, then leave no process behind; called on the main thread."""
    interrupted = Event()
    with serve_run(run_dir, config, policies=policies) as endpoint:
        previous = {number: signal.signal(number, lambda *_: interrupted.set()) for number in (signal.SIGINT, signal.SIGTERM)}
        on_ready(endpoint)
        interrupted.wait()
        for number, handler in previous.items():
            signal.signal(number, handler)


def _serving_port() -> int | None:
    """Where this cluster's Serve listens, if it runs."""
    client = _get_global_client(raise_if_no_controller_running=False)
    return int(client.http_config.port) if client else None


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
                raise EngineError(f"the endpoint did not start: {_last_line(reasons[0] if reasons else application.message)}")
        time.sleep(POLL_S)
    raise EngineError(f"the endpoint was not ready after {timeout_s:g} s")


def _last_line(traceback: str) -> str:
    """The error at the end of the traceback Serve passes on; all of it is in the replica's log."""
    return traceback.strip().splitlines()[-1]
