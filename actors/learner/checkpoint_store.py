"""The folder of checkpoints: which count, which are whole, which may go. `root` is a path or any URL that pyarrow opens.

<root>/step-N/      one checkpoint; `checkpoint` knows what is in it
    commit.json     written last: sizes and SHA-256 of all other files. Without it the directory is not a checkpoint
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyarrow.fs import FileSelector, FileSystem, FileType, LocalFileSystem, copy_files

from actors.storage import open_root

COMMIT = "commit.json"
Digests = Mapping[str, tuple[int, str]]
"""File name -> (size in bytes, SHA-256)."""

_STEP = re.compile(r"step-(\d+)")
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Stored:
    """A committed checkpoint."""

    step: int
    filesystem: FileSystem
    directory: str

    def read_json(self, name: str) -> Any:
        """The content of one of its files."""
        with self.filesystem.open_input_stream(f"{self.directory}/{name}") as stream:
            return json.loads(stream.read())

    def damage(self) -> str | None:
        """What is wrong with it, found by reading every file; None if it is whole."""
        try:
            files: dict[str, Any] = self.read_json(COMMIT)["files"]
        except (ValueError, KeyError, TypeError):
            return f"{COMMIT} cannot be read"
        for name, (size, sha256) in sorted(files.items()):
            info = self.filesystem.get_file_info(f"{self.directory}/{name}")
            if info.type is not FileType.File:
                return f"{name} is missing"
            if info.size != size:
                return f"{name} has {info.size} bytes, not {size}"
            with self.filesystem.open_input_stream(info.path) as stream:
                if _sha256(stream) != sha256:
                    return f"{name} has other contents"
        return None

    @contextmanager
    def local(self) -> Iterator[Path]:
        """Its directory on this machine, copied there if it is elsewhere."""
        if isinstance(self.filesystem, LocalFileSystem):
            yield Path(self.directory)
            return
        with tempfile.TemporaryDirectory() as scratch:
            copy_files(self.directory, scratch, source_filesystem=self.filesystem, destination_filesystem=LocalFileSystem())
            yield Path(scratch)


def stored(root: str) -> list[Stored]:
    """All committed checkpoints, newest first."""
    filesystem, base = open_root(root)
    steps = [step for step in _steps(filesystem, base) if _is_committed(filesystem, base, step)]
    return [Stored(step, filesystem, f"{base}/step-{step}") for step in steps]


def stored_at(root: str, step: int) -> Stored:
    """The checkpoint of one step."""
    filesystem, base = open_root(root)
    return Stored(step, filesystem, f"{base}/step-{step}")


def digests(directory: Path, names: Iterable[str]) -> dict[str, tuple[int, str]]:
    """Of files in a local directory."""
    found = {}
    for name in names:
        with (directory / name).open("rb") as stream:
            found[name] = (directory / name).stat().st_size, hashlib.file_digest(stream, "sha256").hexdigest()
    return found


def commit(root: str, step: int, files: Digests) -> None:
    """Make the complete directory of `step` a checkpoint."""
    filesystem, base = open_root(root)
    with filesystem.open_output_stream(f"{base}/step-{step}/{COMMIT}") as stream:
        stream.write(json.dumps({"step": step, "files": files}).encode())


def uncommit(root: str, step: int) -> None:
    """A step that is trained anew is written over: until it is whole again it does not count."""
    filesystem, base = open_root(root)
    if _is_committed(filesystem, base, step):
        filesystem.delete_file(f"{base}/step-{step}/{COMMIT}")


def discard(root: str, step: int) -> None:
    """Take away what was written of a checkpoint that will not be finished."""
    filesystem, base = open_root(root)
    if filesystem.get_file_info(f"{base}/step-{step}").type is FileType.Directory:
        filesystem.delete_dir(f"{base}/step-{step}")


def prune(root: str, *, keep: int) -> None:
    """Delete all but the newest `keep` committed checkpoints, and what was left uncommitted below the newest."""
    filesystem, base = open_root(root)
    committed = [found.step for found in stored(root)]
    kept = set(committed[:keep])
    for step in _steps(filesystem, base):
        if committed and step < committed[0] and step not in kept:
            filesystem.delete_dir(f"{base}/step-{step}")


@contextmanager
def draft(root: str, step: int) -> Iterator[Path]:
    """Where to write: the checkpoint's own directory, or one that is copied to it at the end."""
    filesystem, base = open_root(root)
    directory = f"{base}/step-{step}"
    filesystem.create_dir(directory, recursive=True)
    if isinstance(filesystem, LocalFileSystem):
        yield Path(directory)
        return
    with tempfile.TemporaryDirectory() as scratch:
        yield Path(scratch)
        copy_files(scratch, directory, source_filesystem=LocalFileSystem(), destination_filesystem=filesystem)


def _sha256(stream: Any) -> str:
    digest = hashlib.sha256()
    while chunk := stream.read(_CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


def _steps(filesystem: FileSystem, base: str) -> list[int]:
    """Steps that have a directory, newest first."""
    found = filesystem.get_file_info(FileSelector(base, allow_not_found=True))
    names = [_STEP.fullmatch(info.base_name) for info in found]
    return sorted((int(name[1]) for name in names if name), reverse=True)


def _is_committed(filesystem: FileSystem, base: str, step: int) -> bool:
    return filesystem.get_file_info(f"{base}/step-{step}/{COMMIT}").type is FileType.File
