"""One checkpoint directory: every rank's shards, random states and counters, and the ledger as it stood.

.metadata, __R_N.distcp    torch DCP: parameters and optimizer state, readable on any number of ranks
rank-R.pt                  random states of rank R
state.json                 step, updates done
ledger.json                the ledger's snapshot
commit.json                written last, once every rank's part has arrived; a directory without it is not a checkpoint

`root` is a path or any URL that pyarrow opens; checkpoints are its `step-N` children.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pyarrow.fs import FileSelector, FileSystem, FileType, LocalFileSystem

if TYPE_CHECKING:
    from actors.learner.learner import Learner


COMMIT = "commit.json"
STEP = re.compile(r"step-(\d+)")


def write(directory: Path, learner: Learner, *, step: int, rank: int, ledger: Sequence[Sequence[Any]] | None) -> None:
    """Write this rank's part; rank 0 also writes what is common."""
    learner.backend.save(directory)
    kind, keys, position, gauss, cached = np.random.get_state()
    states = {
        "torch": torch.get_rng_state(),
        "numpy": [str(kind), torch.from_numpy(np.asarray(keys).astype(np.int64)), position, gauss, cached],
        "python": random.getstate(),
    }
    torch.save(states, directory / f"rank-{rank}.pt")
    if rank == 0:
        (directory / "state.json").write_text(json.dumps({"step": step, "updates_done": learner.updates_done}))
        (directory / "ledger.json").write_text(json.dumps(ledger))


def read(directory: Path, learner: Learner, *, rank: int) -> None:
    """Restore a learner. A rank that did not exist then keeps its fresh random states."""
    learner.backend.load(directory)
    state = json.loads((directory / "state.json").read_text())
    learner.updates_done = state["updates_done"]
    if (file := directory / f"rank-{rank}.pt").exists():
        states = torch.load(file, weights_only=True)
        torch.set_rng_state(states["torch"])
        kind, keys, *rest = states["numpy"]
        np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
        random.setstate(states["python"])


def commit(root: str, step: int) -> None:
    """Make the complete directory of `step` a checkpoint."""
    filesystem, base = open_root(root)
    with filesystem.open_output_stream(f"{base}/step-{step}/{COMMIT}") as stream:
        stream.write(json.dumps({"step": step}).encode())


def directory_of(root: str, step: int) -> tuple[FileSystem, str]:
    """(file system, directory) of one step's checkpoint."""
    filesystem, base = open_root(root)
    return filesystem, f"{base}/step-{step}"


def prune(root: str, *, keep: int) -> None:
    """Delete all but the newest `keep` committed checkpoints, and what was left uncommitted below the newest."""
    filesystem, base = open_root(root)
    committed = [step for step in _steps(filesystem, base) if _is_committed(filesystem, base, step)]
    kept = set(committed[:keep])
    for step in _steps(filesystem, base):
        if committed and step < committed[0] and step not in kept:
            filesystem.delete_dir(f"{base}/step-{step}")


def newest(root: str) -> tuple[int, FileSystem, str] | None:
    """(step, file system, directory) of the newest committed checkpoint."""
    filesystem, base = open_root(root)
    for step in _steps(filesystem, base):
        if _is_committed(filesystem, base, step):
            return step, filesystem, f"{base}/step-{step}"
    return None


def _steps(filesystem: FileSystem, base: str) -> list[int]:
    """Steps that have a directory, newest first."""
    found = filesystem.get_file_info(FileSelector(base, allow_not_found=True))
    names = [STEP.fullmatch(info.base_name) for info in found]
    return sorted((int(name[1]) for name in names if name), reverse=True)


def _is_committed(filesystem: FileSystem, base: str, step: int) -> bool:
    return filesystem.get_file_info(f"{base}/step-{step}/{COMMIT}").type is FileType.File


def newest_ledger(root: str) -> tuple[int, list[list[Any]]]:
    """(step, ledger snapshot) of the newest committed checkpoint; (0, []) if there is none."""
    found = newest(root)
    if found is None:
        return 0, []
    step, filesystem, directory = found
    with filesystem.open_input_stream(f"{directory}/ledger.json") as stream:
        return step, json.loads(stream.read())


def open_root(root: str) -> tuple[FileSystem, str]:
    """The file system behind a path or URL, and the path in it."""
    if "://" in root:
        filesystem, path = FileSystem.from_uri(root)
        return filesystem, str(path)
    return LocalFileSystem(), str(Path(root).absolute())
