"""What a program can take and see, and that nothing of it stays."""

from __future__ import annotations

import os
import time
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


def test_a_program_that_was_not_let_run_has_not() -> None:
    ended = run("while True: pass", cpu_s=20, wall_s=0.5)
    assert ended.status is None and ended.starved


def test_memory_is_bounded() -> None:
    assert run("x = [0] * 10**10").status == 1
    assert run("try:\n  x = bytearray(1 << 30)\nexcept MemoryError: print('refused')").stdout == b"refused\n"


def test_output_is_bounded_for_those_who_insist() -> None:
    ended = run("import os\nwhile True:\n  try: os.write(1, b'x' * 65536)\n  except OSError: break")
    assert len(ended.stdout) == 1 << 20
    assert run("while True: print('x' * 65536)").status not in (0, None)


def test_files_are_bounded() -> None:
    filling = "try:\n  while True: open(f'/tmp/{i}', 'wb').write(bytes(1 << 20)); i += 1\nexcept OSError as error: print(error.strerror, i)"
    assert run("i = 0\n" + filling, cpu_s=5).stdout == b"No space left on device 16\n"
    assert run("print(open('/tmp/x', 'wb', buffering=0).write(bytes(1 << 21)))").stdout == b"1048576\n"
    places = ("/", "/dev/shm", "/usr/lib", "/root")
    writing = f"for place in {places}:\n  try: open(place + '/x', 'w'); print(place)\n  except OSError: pass"
    assert run(writing).stdout == b""


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
    assert run("import os; print(os.environ.keys() - {'PWD', 'LC_CTYPE'}, os.getcwd(), os.listdir('/tmp'))").stdout == b"set() /tmp []\n"
    paths = ["/proc", "/etc", "/home", "/bin/sh", "/usr/bin/env"]
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
