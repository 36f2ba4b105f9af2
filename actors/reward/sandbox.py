"""One warm verifier child, and the only hand that may end it.

    spawn -> ready -> grade, grade, ... -> (deadline | death | worn out) -> ready -> ...

A deadline is counted per response, in CPU time the child used, so that a busy machine costs nobody a verdict; wall-clock time is a
backstop several times longer. Past either, the child's whole process group is killed.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import psutil

from actors.errors import ConfigError, VerifierError
from actors.reward.config import RewardConfig, VerifierPart
from actors.reward.functions import Sample
from actors.reward.protocol import LINE_BYTES, Setup, frame
from actors.types import Outcome, Verdict

_log = logging.getLogger(__name__)

_START_LIMIT_S = 120.0
_GRACE_S = 0.01
_ENVIRONMENT = ("PATH", "HOME", "TMPDIR", "TZ", "LANG", "LC_ALL", "LD_LIBRARY_PATH")


class Sandbox:
    """A child process in its own session, replaced whenever it died. `grade` is called by one task at a time."""

    def __init__(self, config: RewardConfig, tasks: Sequence[str]) -> None:
        named = [part.task for part in config.parts if isinstance(part, VerifierPart) and part.task]
        self._config = config
        self._setup = frame(Setup(config, (*tasks, *named)))
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._starting = asyncio.Lock()
        self._warm = self._closed = False
        self._cpu_s = 0.0  # the child's CPU time at its last message
        self.detail: str | None = None  # the failure logged last

    @property
    def pid(self) -> int | None:
        """Process id, also of the process group; None while there is no child."""
        return self._process.pid if self._process else None

    def spawn(self) -> None:
        """Start a child and return at once; it imports what it needs while the caller goes on.

        The calling thread must live as long as the child: to the kernel that thread is the parent whose death ends it.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "actors.reward.child", str(theirs.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=_environment(self._config.environment),
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        ours.setblocking(False)
        self._socket = ours

    async def ready(self) -> None:
        """Wait until a child is warm. Raises ConfigError if it says what it cannot load, VerifierError if it does not come up."""
        async with self._starting:
            if self._closed:
                raise VerifierError("the verifier is closed")
            if not self._warm:
                try:
                    await self._start()
                except BaseException:
                    await self.end()
                    raise

    async def grade(self, samples: Sequence[Sample]) -> list[Verdict]:
        """Verdicts of the samples in order, ending early with the one that cost the child its life (then `pid` is None).

        If this fails or is cancelled, the child's state is unknown and it is killed.
        """
        await self.ready()
        try:
            return await self._grade(samples)
        except BaseException:
            await self.end()
            raise

    async def end(self) -> int | None:
        """Kill the process group and see its leader gone; the leader's exit status, negative for a signal."""
        process, streams, connection = self._process, self._streams, self._socket
        self._process = self._streams = self._socket = None
        self._warm = False
        if process:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        if streams:
            streams[1].close()
        elif connection:
            connection.close()
        return await asyncio.shield(asyncio.to_thread(process.wait)) if process else None

    async def close(self) -> None:
        """End the child for good."""
        self._closed = True
        await self.end()

    async def _start(self) -> None:
        if not self._socket:
            self.spawn()
        self._streams = await asyncio.open_unix_connection(sock=self._socket, limit=LINE_BYTES)
        self._streams[1].write(self._setup)
        message = _parsed(await self._line(within=_START_LIMIT_S))
        if isinstance(message, Outcome):
            raise VerifierError(f"verifier child {self.pid} did not start: {message.value}")
        if "error" in message:
            raise ConfigError(f"reward: {message['error']}")
        self._cpu_s = message["cpu_s"]
        self._warm = True

    async def _grade(self, samples: Sequence[Sample]) -> list[Verdict]:
        await self._write(frame(list(samples)))
        verdicts: list[Verdict] = []
        while len(verdicts) < len(samples):
            message = _parsed(await self._answer())
            if isinstance(message, Outcome):
                return [*verdicts, Verdict(0.0, await self._fault(message))]
            if message["detail"] not in (None, self.detail):  # a broken function says the same of every response
                _log.warning("a reward part failed: %r", message["detail"])
                self.detail = message["detail"]
            self._cpu_s = message["cpu_s"]
            verdicts.append(Verdict(message["score"], Outcome(message["outcome"]), message["extracted"], message["parts"]))
            if message["worn"]:
                await self.end()
                break
        return verdicts

    async def _fault(self, seen: Outcome) -> Outcome:
        """End the child and name what befell it: a SIGKILL that is not ours is the kernel's, out of memory."""
        status = await self.end()
        outcome = Outcome.OOM if seen is Outcome.CRASH and status == -signal.SIGKILL else seen
        self.detail = f"a verifier child ended: {outcome.value} (exit status {status})"
        _log.warning("%s", self.detail)
        return outcome

    async def _answer(self) -> bytes | None:
        """The next line from the child, b"" if it died, None if the current sample is past a deadline."""
        until = time.monotonic() + self._config.wall_limit_s
        wait = self._config.cpu_limit_s
        while (line := await self._line(within=wait)) is None:
            cpu_left = self._config.cpu_limit_s - (_cpu_seconds(self.pid) - self._cpu_s)
            left = min(cpu_left, until - time.monotonic())
            if left <= 0:
                return await self._line(within=_GRACE_S)  # it may have come while this event loop was busy
            wait = max(left, _GRACE_S)
        return line

    async def _line(self, *, within: float) -> bytes | None:
        try:
            async with asyncio.timeout(within):
                return await self._streams[0].readline() if self._streams else b""
        except TimeoutError:
            return None
        except (OSError, ValueError):  # ValueError: a line over the reader's limit, so not one of ours
            return b""

    async def _write(self, message: bytes) -> None:
        with suppress(OSError):  # also TimeoutError: a child that is gone shows itself when its answer is read
            if self._streams:
                self._streams[1].write(message)
                async with asyncio.timeout(self._config.wall_limit_s):  # a stopped child reads nothing
                    await self._streams[1].drain()


def _parsed(line: bytes | None) -> dict[str, Any] | Outcome:
    if line is None:
        return Outcome.TIMEOUT
    if not line.endswith(b"\n"):
        return Outcome.CRASH
    message: dict[str, Any] = json.loads(line)
    return message


def _cpu_seconds(pid: int | None) -> float:
    if pid is None:
        return 0.0
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return 0.0  # it is gone: the next read says so
    return float(times.user + times.system)


def _environment(names: Sequence[str]) -> dict[str, str]:
    """What a child needs: the same modules as here, one thread per numeric library, the same hashes in every run. No secrets."""
    kept = {name: os.environ[name] for name in (*_ENVIRONMENT, *names) if name in os.environ}
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
    return kept | {"PYTHONPATH": path, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
