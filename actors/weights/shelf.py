"""The folder of policy versions wherever it is: listed, read, copied from and copied to, on any file system that pyarrow opens.

An object store has no rename: there a version's files are put first and its manifest last, and taken away in the other order.
"""

from __future__ import annotations

import re
from pathlib import Path

from pyarrow.fs import FileSelector, FileType, LocalFileSystem, copy_files

from actors.errors import PolicyVersionError
from actors.storage import open_root
from actors.weights.manifest import MANIFEST, Manifest, parse_manifest, read_manifest
from actors.weights.version import committed_steps, version_path

_LOCAL = LocalFileSystem()
_NAME = re.compile(r"step-(0|[1-9]\d*)(/.*)?")


class Shelf:
    """One folder of versions. Calls block; an OSError is the storage's own: asked again it may go well."""

    def __init__(self, root: str) -> None:
        """`root` is a path, or a URL that pyarrow opens; ConfigError where it cannot."""
        self.root = root
        self._filesystem, self._base = open_root(root)
        self.local = Path(self._base) if isinstance(self._filesystem, LocalFileSystem) else None

    def place(self, step: int) -> str:
        """Where the version of a step is, or would be; for people and for pyarrow."""
        return f"{self._base}/step-{step}"

    def steps(self) -> list[int]:
        """The committed versions, oldest first, by one listing."""
        if self.local is not None:
            return committed_steps(self.local)
        return sorted(self._found(f"/{MANIFEST}"))

    def manifest(self, step: int) -> Manifest:
        """A version's manifest, taken at its word. PolicyVersionError where there is none, or a damaged one."""
        path = f"{self.place(step)}/{MANIFEST}"
        try:
            with self._filesystem.open_input_stream(path) as stream:
                content: bytes = stream.read()
        except FileNotFoundError:
            raise PolicyVersionError(f"{path}: missing, so there is no such version") from None
        return parse_manifest(content, path)

    def sizes(self, step: int) -> dict[str, int]:
        """File name -> size in bytes, of all that lies in a version's directory."""
        found = self._filesystem.get_file_info(FileSelector(self.place(step), allow_not_found=True))
        return {info.base_name: info.size for info in found}

    def download(self, step: int, directory: Path) -> None:
        """Copy a version's files into a directory of this machine that exists."""
        copy_files(self.place(step), str(directory), source_filesystem=self._filesystem, destination_filesystem=_LOCAL)

    def upload(self, policies: Path, step: int) -> None:
        """Copy a version of this machine here. PolicyVersionError where other weights have its name."""
        ours = read_manifest(version_path(policies, step))
        if self._is_committed(step):
            if (theirs := self.manifest(step)).weights_sha256 != ours.weights_sha256:
                raise PolicyVersionError(f"holds other weights already ({theirs.weights_short}); names are not reused")
            return
        self._filesystem.create_dir(self.place(step), recursive=True)
        for name in (*sorted(ours.files), MANIFEST):
            source = str(version_path(policies, step) / name)
            copy_files(source, f"{self.place(step)}/{name}", source_filesystem=_LOCAL, destination_filesystem=self._filesystem)

    def discard(self, step: int) -> None:
        """Delete a version, its manifest first, so that a half deleted one is never taken for a committed one."""
        if self._is_committed(step):
            self._filesystem.delete_file(f"{self.place(step)}/{MANIFEST}")
        self._filesystem.delete_dir(self.place(step))

    def unfinished(self) -> set[int]:
        """Steps that have files and no manifest: an upload or a deletion that was cut off, or is under way."""
        return self._found() - {*self.steps()}

    def _is_committed(self, step: int) -> bool:
        return self._filesystem.get_file_info(f"{self.place(step)}/{MANIFEST}").type is FileType.File

    def _found(self, name: str | None = None) -> set[int]:
        """Steps that have anything here, or a file of this name."""
        found = self._filesystem.get_file_info(FileSelector(self._base, recursive=True, allow_not_found=True))
        matches = (_NAME.fullmatch(info.path.removeprefix(f"{self._base}/")) for info in found)
        return {int(match[1]) for match in matches if match and name in (None, match[2])}
