"""What a policy version says it holds, and whether it does: read and verified before a tensor of it is touched."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import AwareDatetime, ConfigDict, TypeAdapter, ValidationError

from actors.errors import PolicyVersionError

MANIFEST = "manifest.json"
WEIGHTS_SUFFIX = ".safetensors"


@dataclass(frozen=True, slots=True)
class FileEntry:
    """What one file of a version must be."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """The identity of a policy version and the digests of its files."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    format: Literal[1]
    step: int
    parent: int | None  # the step these weights were trained from
    created: AwareDatetime  # UTC
    run: str
    weights_sha256: str  # over the digests of the *.safetensors files, in the order of their names
    files: Mapping[str, FileEntry]

    @property
    def weights_short(self) -> str:
        """The first 12 digits of the weights' digest: enough to tell versions apart."""
        return self.weights_sha256[:12]

    @property
    def weight_files(self) -> list[str]:
        """Names of the files that hold tensors, in order."""
        return sorted(name for name in self.files if name.endswith(WEIGHTS_SUFFIX))

    def to_json(self) -> bytes:
        """As it stands in the version's directory."""
        return _MANIFEST.dump_json(self, indent=2)


_MANIFEST = TypeAdapter(Manifest)


def read_manifest(directory: Path) -> Manifest:
    """The manifest of a committed version, taken at its word; `verify_version` holds the files against it."""
    path = directory / MANIFEST
    try:
        return parse_manifest(path.read_bytes(), str(path))
    except FileNotFoundError:
        raise PolicyVersionError(f"{path}: missing, so this version was never committed") from None


def parse_manifest(content: bytes, place: str) -> Manifest:
    """A manifest from its bytes; PolicyVersionError names `place` and the bad field."""
    try:
        return _MANIFEST.validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "file"
        raise PolicyVersionError(f"{place}: {field}: {first['msg']}") from None


def verify_version(directory: Path, *, step: int | None = None, finite: bool = False) -> Manifest:
    """Hold every file against the manifest before a tensor is touched; PolicyVersionError names the first that differs.

    Files the manifest does not know are refused too: engines load every weight file they find. With `step` the manifest must be of
    that step; `finite` also reads the tensors and refuses NaN and infinities.
    """
    manifest = read_manifest(directory)
    sizes = {entry.name: entry.stat().st_size for entry in directory.iterdir()}
    check_listing(manifest, sizes, str(directory), step=step)
    for name, entry in sorted(manifest.files.items()):
        if _sha256(directory / name) != entry.sha256:
            raise PolicyVersionError(f"{directory / name}: its sha256 is not the manifest's")
    if finite:
        check_finite(directory, manifest)
    return manifest


def check_listing(manifest: Manifest, sizes: Mapping[str, int], place: str, *, step: int | None = None) -> None:
    """Hold what a directory lists (name -> size in bytes) against its manifest, without reading a file of it."""
    if step is not None and manifest.step != step:
        raise PolicyVersionError(f"{place}/{MANIFEST}: the manifest is of step {manifest.step}")
    for name, entry in sorted(manifest.files.items()):
        if Path(name).name != name:
            raise PolicyVersionError(f"{place}/{MANIFEST}: {name!r} is not a file name")
        if name not in sizes:
            raise PolicyVersionError(f"{place}/{name}: missing")
        if sizes[name] != entry.size_bytes:
            raise PolicyVersionError(f"{place}/{name}: {sizes[name]} bytes, the manifest says {entry.size_bytes}")
    if extra := sorted(sizes.keys() - manifest.files.keys() - {MANIFEST}):
        raise PolicyVersionError(f"{place}/{extra[0]}: not in the manifest")
    if manifest.weights_sha256 != weights_digest(manifest.files):
        raise PolicyVersionError(f"{place}/{MANIFEST}: weights_sha256 does not follow from the files' digests")


def check_finite(directory: Path, manifest: Manifest) -> None:
    """Read every tensor; PolicyVersionError names the first with a NaN or an infinity."""
    from safetensors import SafetensorError, safe_open

    for name in manifest.weight_files:
        try:
            with safe_open(directory / name, framework="pt") as tensors:
                for key in tensors.keys():  # noqa: SIM118 - not a mapping
                    tensor = tensors.get_tensor(key)
                    # The extremes carry NaN through and need no second tensor of the same size.
                    if tensor.numel() and not all(bound.isfinite() for bound in tensor.aminmax()):
                        raise PolicyVersionError(f"{directory / name}: {key} holds values that are not finite")
        except SafetensorError as error:
            raise PolicyVersionError(f"{directory / name}: {error}") from None


def describe(directory: Path) -> dict[str, FileEntry]:
    """Digests and sizes of the files of a directory."""
    return {path.name: FileEntry(_sha256(path), path.stat().st_size) for path in sorted(directory.iterdir())}


def weights_digest(files: Mapping[str, FileEntry]) -> str:
    """The digest that identifies the weights among these files."""
    digests = [files[name].sha256 for name in sorted(files) if name.endswith(WEIGHTS_SUFFIX)]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
