"""The last step before a response's program: `python launch.py USER PROGRAM RLIMIT_CPU=5 RLIMIT_AS=1073741824 ...`.

Runs where the program will run, and speaks through standard error, which the program never gets:

    what went wrong with us | STARTED, then the CPU seconds of the program and of the processes it waited for

A child of this process gives up root for the user id USER (0: stays who it is), sets the limits, gives up the system calls by which a
program takes memory that no limit counts, or gets itself new namespaces, and becomes the program; its exit status is passed on. Standard
library only.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import struct
import sys

STARTED = b"started\n"
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38  # linux/prctl.h

# shmget, semget, msgget, mq_open, memfd_create, memfd_secret, io_uring_setup, userfaultfd, inotify_init1, fanotify_init, add_key,
# request_key, keyctl, bpf, perf_event_open, ptrace, unshare, setns
_REFUSED = {
    "x86_64": (29, 64, 68, 240, 319, 447, 425, 323, 294, 300, 248, 249, 250, 321, 298, 101, 272, 308),
    "aarch64": (194, 190, 186, 180, 279, 447, 425, 282, 26, 262, 217, 218, 219, 280, 241, 117, 97, 268),
}
_ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # linux/audit.h
_CLONE = {"x86_64": 56, "aarch64": 220}
_CLONE3, _CLONE_NEWUSER, _X32 = 435, 0x10000000, 0x40000000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # linux/bpf_common.h: words, constants
_NUMBER_AT, _ARCHITECTURE_AT, _FIRST_ARGUMENT_AT = 0, 4, 16  # in struct seccomp_data
_ALLOW, _REFUSE, _UNKNOWN = 0x7FFF0000, 0x00050001, 0x00050026  # go on; EPERM; ENOSYS, after which libc takes clone instead of clone3


def main(user: int, program: str, limits: list[str]) -> int:
    """The program's exit status, as a shell tells it."""
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0)  # the program, which may have the same user, can neither trace nor rewrite this process
    pid = os.fork()
    if pid == 0:
        _become(user, program, limits)
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
    _give_up_calls(os.uname().machine)
    os.write(2, STARTED)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    os.execv(sys.executable, [sys.executable, "-I", "-S", "-X", "utf8", program])


def _give_up_calls(machine: str) -> None:
    """Install a seccomp filter, for this process and all that it starts."""
    if machine not in _REFUSED:
        raise OSError(f"no filter of system calls for {machine}")
    refused = _REFUSED[machine]
    steps = [
        (_LOAD, 0, 0, _ARCHITECTURE_AT),
        (_EQUAL, 1, 0, _ARCHITECTURE[machine]),
        (_RETURN, 0, 0, _REFUSE),
        (_LOAD, 0, 0, _NUMBER_AT),
        (_AT_LEAST, 0, 1, _X32),
        (_RETURN, 0, 0, _REFUSE),
        (_EQUAL, 0, 1, _CLONE3),
        (_RETURN, 0, 0, _UNKNOWN),
        *(step for number in refused for step in ((_EQUAL, 0, 1, number), (_RETURN, 0, 0, _REFUSE))),
        (_EQUAL, 0, 3, _CLONE[machine]),
        (_LOAD, 0, 0, _FIRST_ARGUMENT_AT),
        (_ANY_BIT, 0, 1, _CLONE_NEWUSER),
        (_RETURN, 0, 0, _REFUSE),
        (_RETURN, 0, 0, _ALLOW),
    ]
    filters = b"".join(struct.pack("=HBBI", *step) for step in steps)
    held = ctypes.create_string_buffer(filters, len(filters))
    program = struct.pack("@HP", len(steps), ctypes.addressof(held))  # struct sock_fprog
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    if prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or prctl(_PR_SET_SECCOMP, 2, program, 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp is not to be had")


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2], sys.argv[3:]))
