"""Writes checkpoints in children of its own, and kills each child at another moment: at its first write, its second, and so on.

`python -m tests.integration.killed_saver ROOT` leaves ROOT/N for the child that was killed at the N-th moment of writing step 3, with the
file `committed`: the steps that were told to be safe. The last child comes through.
"""

from __future__ import annotations

import io
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from pyarrow.fs import FileSystem, LocalFileSystem

from actors.learner import backends, checkpoint_store
from actors.learner.checkpoint import Waiting
from actors.learner.config import LearnerConfig
from actors.learner.learner import Learner, LearnerSpec
from actors.learner.saver import Saver
from tests.tiny_model import build_model

BEFORE, STEP = (1, 2), 3
"""Two are kept, so that step 3 takes step 1 away."""


class Moments:
    """Counts what changes the disk, and kills the process at one of them: before it, or with half of it done."""

    def __init__(self, deadly: int) -> None:
        self._deadly, self._count, self._lock = deadly, 0, threading.Lock()

    def come(self, half: Callable[[], Any] = lambda: None) -> None:
        with self._lock:
            self._count += 1
            if self._count == self._deadly:
                half()
                os.kill(os.getpid(), signal.SIGKILL)

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **named: Any) -> Any:
            self.come()
            result = function(*arguments, **named)
            self.come()
            return result

        return counted


def arm(moments: Moments) -> None:
    """Put a moment before, within and after everything that a checkpoint does to the disk."""
    real_open, real_save = io.open, torch.save

    class File(io.FileIO):
        begun = False

        def write(self, content: Any, /) -> int:
            if not self.begun:
                self.begun = True
                moments.come(lambda: super(File, self).write(bytes(content)[: len(bytes(content)) // 2]))
            return super().write(content)

    def opened(path: Any, mode: str = "r", *arguments: Any, **named: Any) -> Any:
        if "w" not in mode:
            return real_open(path, mode, *arguments, **named)
        moments.come()
        file = File(path, "w")
        return file if "b" in mode else io.TextIOWrapper(file, encoding="utf-8")

    def save(value: Any, target: Any) -> None:
        if isinstance(target, Path):
            moments.come()
        real_save(value, target)
        if isinstance(target, Path):
            moments.come(lambda: os.truncate(target, target.stat().st_size // 2))

    class Disk(LocalFileSystem):  # type: ignore[misc]  # pyarrow has no types
        def open_output_stream(self, path: str, *_: Any, **__: Any) -> Any:
            return opened(path, "wb")

        def create_dir(self, path: str, *, recursive: bool = True) -> None:
            moments.around(super().create_dir)(path, recursive=recursive)

        def delete_dir(self, path: str) -> None:
            files = sorted(Path(path).iterdir())
            moments.come(lambda: list(map(os.unlink, files[: len(files) // 2])))
            super().delete_dir(path)

        def delete_file(self, path: str) -> None:
            moments.around(super().delete_file)(path)

    def open_root(root: str) -> tuple[FileSystem, str]:
        return Disk(), root

    io.open, torch.save, checkpoint_store.open_root = opened, save, open_root  # type: ignore[assignment]
    os.fsync, os.rename, os.replace = moments.around(os.fsync), moments.around(os.rename), moments.around(os.replace)


def write_checkpoints(root: Path, steps: Sequence[int], moments: Moments | None = None) -> None:
    """Save these steps one after the other; armed, if there is a deadly moment among `moments`."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    config = LearnerConfig()
    learner = Learner(backends.build(build_model(), config, dtype="float32", device=torch.device("cpu")), LearnerSpec(config, 1.0, 1))
    saver = Saver(str(root / "checkpoints"), keep=len(BEFORE), rank=0)
    told = os.open(root / "committed", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    if moments is not None:
        arm(moments)
    for step in steps:
        saver.save(learner, step, Waiting(), partial(_tell, told, step))
        saver.wait()


def _tell(file: int, step: int) -> None:
    os.write(file, f"{step}\n".encode())


def live(root: Path, steps: Sequence[int], moments: Moments | None = None) -> int:
    """Do it in a child; its exit status, negative for the signal that killed it."""
    child = os.fork()
    if child == 0:
        write_checkpoints(root, steps, moments)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(root: Path) -> None:
    """Kill children until one comes through."""
    torch.set_num_threads(1)
    first = root / "0"
    first.mkdir()
    status, deadly = live(first, BEFORE), 0
    while deadly == 0 or status == -signal.SIGKILL:
        deadly += 1
        shutil.copytree(first, root / str(deadly))
        status = live(root / str(deadly), [STEP], Moments(deadly))
    sys.exit(status)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
