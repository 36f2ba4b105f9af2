"""Ties the engine's process to the one that started it: without this it outlives a killed parent and keeps its memory.

vLLM imports the module inside the engine's process, as its `worker_extension_cls`. With tensor parallelism the class lands in the
workers, which vLLM itself ends with their engine.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with_parent() -> None:
    """Ask Linux to kill this process when the thread that started it ends; does nothing on other systems."""
    if sys.platform != "linux":
        return
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent or parent == 1:
        os._exit(1)


class Lifeline:
    """Carries the call into the engine; adds nothing to the worker."""


die_with_parent()
