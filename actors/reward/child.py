"""The process that grades: `python -m actors.reward.child FD PARENT`, started and killed by the sandbox.

It speaks through the socket FD alone: standard input and output lead nowhere, so a graded function may print what it likes.
"""

from __future__ import annotations

import resource
import socket
import sys
import time
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

from actors.lifeline import die_with_parent
from actors.reward import jail, verifiers
from actors.reward.config import FunctionPart
from actors.reward.functions import Sample
from actors.reward.grading import Grader
from actors.reward.protocol import Setup, line, receive
from actors.types import Outcome, Verdict

_TEXT_CHARS = 500
_CHEAP_S = 0.01
_FILE_BYTES = 16 << 20
_OPEN_FILES = 256


def main(argv: list[str]) -> None:
    """Warm up, say so, then answer until the other side closes."""
    die_with_parent(int(argv[2]))
    connection = socket.socket(fileno=int(argv[1]))
    connection.set_inheritable(False)
    requests = connection.makefile("rb")
    setup: Setup | None = receive(requests)
    if setup is None:
        return
    try:
        programs = cache(partial(jail.build, setup.config))
        grader = Grader(setup.config.parts, programs)
        verifiers.warm(setup.tasks, programs)
    except Exception as error:
        connection.sendall(line(error=_said(error)))
        return
    _limit(setup)
    memory = _Memory(setup.config.memory_bytes)
    connection.sendall(line(cpu_s=time.process_time()))
    while batch := receive(requests):
        for sample in batch:
            answer = _answer(grader, sample, memory)
            connection.sendall(line(cpu_s=time.process_time(), **answer))


class _Memory:
    """Watches the most address space this process ever held.

    SymPy and math-verify catch MemoryError and go on to say "wrong". That is not believed if the peak moved by half of the allowance.
    """

    def __init__(self, allowed_bytes: int) -> None:
        self._enough = allowed_bytes // 2
        self._start = self._last = _status_bytes("VmPeak")

    def exhausted(self) -> bool:
        """Whether the limit must be taken as reached since the last call."""
        before, self._last = self._last, _status_bytes("VmPeak")
        return self._last - before > self._enough

    @property
    def worn(self) -> bool:
        """Whether the peak, which never falls, leaves too little to judge the next sample by: time for a new process."""
        return self._last - self._start > self._enough


def _answer(grader: Grader, sample: Sample, memory: _Memory) -> dict[str, Any]:
    began = time.process_time()
    detail = None
    try:
        verdict = grader.grade(sample)
    except MemoryError:
        verdict = Verdict(0.0, Outcome.OOM)
    except BaseException as error:  # SystemExit too: whatever a user's function raises is a fault of that function
        verdict, detail = Verdict(0.0, Outcome.CRASH), _said(error)
    if time.process_time() - began > _CHEAP_S and memory.exhausted() and verdict.outcome is not Outcome.RIGHT:
        verdict = Verdict(0.0, Outcome.OOM)
    return {
        "score": float(verdict.score),
        "outcome": verdict.outcome,
        "extracted": verdict.extracted and str(verdict.extracted)[:_TEXT_CHARS],
        "parts": dict(verdict.parts),
        "detail": detail,
        "worn": memory.worn or verdict.outcome is Outcome.OOM,
    }


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:_TEXT_CHARS]


def _limit(setup: Setup) -> None:
    """Resource limits, set once warm: importing may take what it needs."""
    limits = {resource.RLIMIT_CORE: 0, resource.RLIMIT_FSIZE: _FILE_BYTES, resource.RLIMIT_NOFILE: _OPEN_FILES}
    if held := _status_bytes("VmSize"):
        limits[resource.RLIMIT_AS] = held + setup.config.memory_bytes
    if not (any(isinstance(part, FunctionPart) for part in setup.config.parts) or verifiers.CODE in setup.tasks):
        limits[resource.RLIMIT_NPROC] = 0  # no other verifier of ours starts a process or a thread; a user's function may
    for kind, limit in limits.items():
        hard = resource.getrlimit(kind)[1]
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (limit, limit))


def _status_bytes(field: str) -> int:
    """A field of this process's status in bytes; 0 where the system has no /proc."""
    with suppress(OSError):
        for entry in Path("/proc/self/status").read_text().splitlines():
            if entry.startswith(field + ":"):
                return int(entry.split()[1]) * 1024
    return 0


if __name__ == "__main__":
    main(sys.argv)
