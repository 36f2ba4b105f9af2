"""Ties a process to the one that started it: without this a vLLM engine outlives its killed parent and keeps its memory."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with_parent(parent: int | None = None) -> None:
    """Ask Linux to kill this process when the thread that started it ends; does nothing on other systems.

    `parent`: id of the process that started this one, where it passed that on. A parent that died before this call is then noticed
    for certain; without it, only if process 1 has taken this one over.
    """
    if sys.platform != "linux":
        return
    known = parent is not None
    parent = parent if parent is not None else os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent or (parent == 1 and not known):
        os._exit(1)
