"""One checkpoint directory: every rank's shards, random states and counters, and the ledger as it stood.

.metadata, __R_N.distcp    torch DCP: parameters and optimizer state, readable on any number of ranks
rank-R.pt                  random states of rank R
state.json                 step, the learner's progress
ledger.json                the ledger's snapshot
commit.json                written last, once every rank's part has arrived; a directory without it is not a checkpoint

`root` is a path or any URL that pyarrow opens; checkpoints are its `step-N` children.
"""

from __future__ import annotations

import json
import random
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pyarrow.fs import FileSelector, FileSystem, FileType, LocalFileSystem, copy_files
from torch.distributed.checkpoint import FileSystemWriter
from torch.distributed.checkpoint import save as dcp_save
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

    from actors.learner.learner import Learner


COMMIT = "commit.json"
_COPIES = StagingOptions(use_pinned_memory=False, use_shared_memory=False, use_async_staging=False, use_non_blocking_copy=False)
STEP = re.compile(r"step-(\d+)")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One rank's part of a checkpoint, held apart from what training goes on to change."""

    step: int
    rank: int
    shards: Mapping[str, Any]  # for torch DCP
    random: Mapping[str, Any]
    state: Mapping[str, Any]
    ledger: Sequence[Sequence[Any]]


def take(learner: Learner, *, step: int, rank: int, ledger: Sequence[Sequence[Any]]) -> Snapshot:
    """Copy what a checkpoint of this moment needs; all ranks together."""
    shards = DefaultStager(_COPIES).stage(dict(learner.backend.snapshot()))
    assert isinstance(shards, dict)
    return Snapshot(step, rank, shards, _random_states(), {"step": step, **asdict(learner.progress)}, ledger)


def write(root: str, snapshot: Snapshot, group: ProcessGroup) -> None:
    """Write this rank's part under `root`; all ranks together, over `group`. It takes `commit` to make it a checkpoint."""
    if snapshot.rank == 0:  # first of all, and no rank writes before it has rank 0's plan
        _uncommit(root, snapshot.step)
    with _local_directory(root, snapshot.step) as directory:
        dcp_save(dict(snapshot.shards), storage_writer=FileSystemWriter(directory), process_group=group)
        torch.save(dict(snapshot.random), directory / f"rank-{snapshot.rank}.pt")
        if snapshot.rank == 0:
            (directory / "state.json").write_text(json.dumps(snapshot.state))
            (directory / "ledger.json").write_text(json.dumps(snapshot.ledger))


def read(root: str, step: int, learner: Learner, *, rank: int) -> None:
    """Restore a learner from a committed checkpoint. A rank that did not exist then keeps its fresh random states."""
    from actors.learner.learner import Progress

    filesystem, path = directory_of(root, step)
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(path)
        if not isinstance(filesystem, LocalFileSystem):
            directory = Path(scratch)
            copy_files(path, scratch, source_filesystem=filesystem, destination_filesystem=LocalFileSystem())
        learner.backend.load(directory)
        state = json.loads((directory / "state.json").read_text())
        learner.progress = Progress(**{name: state[name] for name in Progress.__slots__})
        if (file := directory / f"rank-{rank}.pt").exists():
            _set_random_states(torch.load(file, weights_only=True))


def commit(root: str, step: int) -> None:
    """Make the complete directory of `step` a checkpoint."""
    filesystem, directory = directory_of(root, step)
    with filesystem.open_output_stream(f"{directory}/{COMMIT}") as stream:
        stream.write(json.dumps({"step": step}).encode())


def _uncommit(root: str, step: int) -> None:
    """A step that is trained anew is written over: until it is whole again it does not count."""
    filesystem, base = open_root(root)
    if _is_committed(filesystem, base, step):
        filesystem.delete_file(f"{base}/step-{step}/{COMMIT}")


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


@contextmanager
def _local_directory(root: str, step: int) -> Iterator[Path]:
    """Where to write: the checkpoint's own directory, or one that is copied to it at the end."""
    filesystem, path = directory_of(root, step)
    filesystem.create_dir(path, recursive=True)
    if isinstance(filesystem, LocalFileSystem):
        yield Path(path)
        return
    with tempfile.TemporaryDirectory() as scratch:
        yield Path(scratch)
        copy_files(scratch, path, source_filesystem=LocalFileSystem(), destination_filesystem=filesystem)


def _steps(filesystem: FileSystem, base: str) -> list[int]:
    """Steps that have a directory, newest first."""
    found = filesystem.get_file_info(FileSelector(base, allow_not_found=True))
    names = [STEP.fullmatch(info.base_name) for info in found]
    return sorted((int(name[1]) for name in names if name), reverse=True)


def _is_committed(filesystem: FileSystem, base: str, step: int) -> bool:
    return filesystem.get_file_info(f"{base}/step-{step}/{COMMIT}").type is FileType.File


def _random_states() -> dict[str, Any]:
    kind, keys, position, gauss, cached = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        "numpy": [str(kind), torch.from_numpy(np.asarray(keys).astype(np.int64)), position, gauss, cached],
        "python": random.getstate(),
    }


def _set_random_states(states: Mapping[str, Any]) -> None:
    torch.set_rng_state(states["torch"])
    if states["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    random.setstate(states["python"])
