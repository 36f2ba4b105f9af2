"""The last step before a response's program: `python launch.py USER PROGRAM RLIMIT_CPU=5 RLIMIT_AS=1073741824 ...`.

Runs where the program will run, and speaks through standard error, which the program never gets:

    what went wrong with us | STARTED, then the CPU seconds of the program and of the processes it waited for

A child of this process gives up root for the user id USER (0: stays who it is), sets the limits and becomes the program; its exit status
is passed on. Standard library only.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys

STARTED = b"started\n"
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE = 1, 4  # linux/prctl.h


def main(user: int, program: str, limits: list[str]) -> int:
    """The program's exit status, as a shell tells it."""
    pid = os.fork()
    if pid == 0:
        _become(user, program, limits)
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0)  # the program, which may have the same user, can neither trace nor rewrite this process
    _, status, usage = os.wait4(pid, 0)
    os.write(2, b"%.3f\n" % (usage.ru_utime + usage.ru_stime))
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _become(user: int, program: str, limits: list[str]) -> None:
    if user:
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # after the change of user, which clears it
    for limit in limits:
        name, _, value = limit.partition("=")
        kind = getattr(resource, name)
        hard = resource.getrlimit(kind)[1]
        most = int(value) if hard == resource.RLIM_INFINITY else min(int(value), hard)
        resource.setrlimit(kind, (most, most))
    os.write(2, STARTED)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    os.execv(sys.executable, [sys.executable, "-I", "-S", "-X", "utf8", program])


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2], sys.argv[3:]))
