"""Reward functions for the children to import; what `misbehave` does is the prompt's answer, so that one pool serves all tests."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from actors.types import Answer


def misbehave(task: str, response: str, answer: Answer) -> float:
    """Do what the response says; `answer` is where it may leave a trace."""
    match response:
        case "spin":
            while True:
                pass
        case "sleep":
            time.sleep(3600)
        case "fork and spin":
            Path(str(answer)).write_text(str(os.fork() or os.getpid()))
            while True:
                pass
        case "hog":
            return float(len([0] * 10**10))
        case "hog and hide it":
            return hide_exhaustion()
        case "vanish":
            os._exit(0)
        case "leave":
            sys.exit()
        case "abort":
            os.abort()
        case "raise":
            raise RuntimeError("broken reward")
        case "flood":
            while True:
                sys.stdout.write("x" * 4096)
        case "print":
            sys.stdout.write('{"score": 1.0, "outcome": "right"}\n')
            sys.stdout.flush()
            os.write(1, b"\x00" * 10_000)
            os.write(2, b"\x00" * 10_000)
        case "count":
            with Path(str(answer)).open("a") as trace:
                trace.write("called\n")
        case "environment":
            Path(str(answer)).write_text("\n".join(os.environ))
    return 1.0


def hide_exhaustion() -> float:
    """As SymPy does: meet MemoryError, and go on as if nothing had been."""
    held = []
    try:
        while True:
            held.append(bytearray(1 << 22))
    except MemoryError:
        held.clear()
    return 0.0


def variety(task: str, response: str, answer: Answer) -> float:
    """Share of characters that the response has not had before: what even a policy that knows nothing can learn from."""
    return len(set(response)) / max(1, len(response))


def echo(task: str, response: str, answer: Answer) -> float:
    """Right if the response came through unchanged."""
    return float(response == answer)
