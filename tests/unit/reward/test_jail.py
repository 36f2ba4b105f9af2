"""What a program can take and see, and that nothing of it stays."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import pytest

from actors.errors import ConfigError
from actors.reward import jail
from actors.reward.config import RewardConfig
from actors.reward.jail import Jail, Run

FORK_BOMB = """
import os
while True:
    try:
        os.fork()
        os.setsid()
    except OSError:
        pass
"""


def built(**code: Any) -> Jail:
    return jail.build(RewardConfig.model_validate({"memory_bytes": 1 << 27, "code": {"output_bytes": 1 << 20, **code}}))


def run(program: str, cpu_s: float = 0.5, wall_s: float = 30, **code: Any) -> Run:
    return built(**code).run(program, "", cpu_s=cpu_s, until=time.monotonic() + wall_s)


def test_an_endless_loop_ends_at_the_cpu_limit() -> None:
    ended = run("while True: pass")
    assert ended.status is None and 0.5 <= ended.cpu_s < 2 and not ended.starved


def test_a_program_that_waits_has_itself_to_blame() -> None:
    ended = run("import time; time.sleep(3600)", wall_s=0.5)
    assert ended.status is None and ended.cpu_s < 0.4 and not ended.starved


def test_a_program_that_waits_and_then_spins_has_too() -> None:
    ended = run("import time; time.sleep(2)\nwhile True: pass", cpu_s=20, wall_s=3)
    assert ended.status is None and not ended.starved


@pytest.fixture
def crowded() -> Iterator[None]:
    """One core, on which four other processes spin."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"], start_new_session=True) for _ in range(4)]
    yield
    os.sched_setaffinity(0, cores)
    for other in others:
        other.kill()
        other.wait()


def test_a_program_that_was_not_let_run_has_not(crowded: None) -> None:
    ended = built().run("while True: pass", "", cpu_s=20, until=time.monotonic() + 4)
    assert ended.status is None and ended.starved


def test_memory_is_bounded() -> None:
    assert run("x = [0] * 10**10").status == 1
    assert run("try:\n  x = bytearray(1 << 30)\nexcept MemoryError: print('refused')").stdout == b"refused\n"


def test_output_is_bounded_for_those_who_insist() -> None:
    ended = run("import os\nwhile True:\n  try: os.write(1, b'x' * 65536)\n  except OSError: break")
    assert len(ended.stdout) == 1 << 20
    assert run("while True: print('x' * 65536)").status not in (0, None)


def test_nothing_can_be_written() -> None:
    places = ("/", "/tmp", "/var/tmp", "/dev", "/dev/shm", "/usr/lib", "/root")
    writing = f"""
import os
for place in {places}:
    for write in (lambda: open(place + "/x", "w"), lambda: os.mkdir(place + "/y"), lambda: os.symlink("/", place + "/z")):
        try:
            write()
            print(place)
        except OSError:
            pass
"""
    assert run(writing).stdout == b""


def test_memory_that_no_limit_counts_is_not_to_be_had() -> None:
    asking = """
import ctypes, errno, os, sys, threading
libc = ctypes.CDLL(None, use_errno=True)
def refused(result): return result == -1 and ctypes.get_errno() == errno.EPERM
print(refused(libc.shmget(0, 1 << 20, 0o1600)), refused(libc.msgget(0, 0o1600)), refused(libc.semget(0, 1, 0o1600)))
print(refused(libc.memfd_create(b"x", 0)), refused(libc.unshare(0x10000000)), refused(libc.syscall(425, 8, None)))
print(refused(libc.syscall({"x86_64": 56, "aarch64": 220}[os.uname().machine], 0x10000011, 0, 0, 0, 0)))
thread = threading.Thread(target=lambda: print("a thread"))
thread.start(); thread.join()
sys.stdout.flush()
if os.fork() == 0: os.write(1, b"a process\\n"); os._exit(0)
os.wait()
"""
    assert run(asking, cpu_s=5).stdout.decode().split("\n")[:5] == ["True True True", "True True True", "True", "a thread", "a process"]


def test_a_fork_bomb_is_contained_and_dies_whole() -> None:
    before = set(psutil.Process().children(recursive=True))
    seen: set[psutil.Process] = set()
    with ThreadPoolExecutor(1) as pool:
        ending = pool.submit(run, FORK_BOMB, 2.0, 30, processes=6)
        while not ending.done():
            now = set(psutil.Process().children(recursive=True)) - before
            assert len(now) <= 6 + 3  # bwrap outside and inside, launch.py
            seen |= now
    assert ending.result().status is None
    assert len(seen) >= 6
    _, alive = psutil.wait_procs(seen, timeout=10)
    assert not alive


def test_a_daemon_dies_with_its_program() -> None:
    """Whoever detaches a process to go on after the verdict finds it gone."""
    before = set(psutil.Process().children(recursive=True))
    detaching = "import os, time\nif os.fork() == 0:\n  os.setsid()\n  time.sleep(3600)\nprint('done')"
    assert run(detaching).stdout == b"done\n"
    names = [process for process in psutil.process_iter() if process not in before and "/program.py" in _command(process)]
    _, alive = psutil.wait_procs(names, timeout=10)
    assert not alive


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def test_there_is_nothing_to_see() -> None:
    assert run("import os; print(os.environ.keys() - {'PWD', 'LC_CTYPE'}, os.getcwd())").stdout == b"set() /\n"
    paths = ["/tmp", "/proc", "/etc", "/home", "/bin/sh", "/usr/bin/env"]
    assert run(f"import os; print(list(filter(os.path.exists, {paths})))").stdout == b"[]\n"
    assert run("import os; os.setuid(0); print(os.geteuid())").stdout == b""


def test_limits_alone_are_refused_to_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(ConfigError, match=r"reward\.code\.isolation"):
        built(isolation="rlimits_only")


def test_limits_alone_still_end_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert run("print(input() or 5)", isolation="rlimits_only").status == 1  # nothing on its standard input
    assert run("print(5)", isolation="rlimits_only").stdout == b"5\n"
    assert run("while True: pass", isolation="rlimits_only").status is None
    assert run("x = [0] * 10**10", isolation="rlimits_only").status == 1
