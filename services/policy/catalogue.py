"""The policy versions of a run, on any file system: which there are, and one of them on this machine's disk, fit to be loaded.

    steps() ──► manifest(step) ──► fetch(step, like=...)    copied here if it is elsewhere, verified, held against what an engine holds

A local folder is used as it is. From elsewhere a version is copied into a cache that processes of this machine may share.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from actors.errors import PolicyVersionError
from actors.weights.manifest import Manifest, check_finite, check_listing, read_manifest, verify_version
from actors.weights.shelf import Shelf
from actors.weights.version import version_path
from services.policy.layout import Layout, check_alike, read_layout

Seal = frozenset[tuple[str, int, int]]
"""(file name, size in bytes, time of change in ns) of every file: as long as it holds, nothing has to be read again."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What was found out about a directory while its seal held."""

    seal: Seal
    manifest: Manifest
    layout: Layout
    finite: bool = False


class Catalogue:
    """A folder of policy versions. Every call blocks, from any thread.

    PolicyVersionError refuses a version, with the file and the fault. An OSError is the storage's own: asked again it may go well.
    """

    def __init__(self, policies: str | Path, *, cache: Path | None = None, keep: int = 3) -> None:
        """`policies` is a path or a URL that pyarrow opens; of another machine's versions the `keep` last used stay in `cache`."""
        self._shelf = Shelf(str(policies))
        self._cache = cache or _default_cache(self._shelf.root)
        self._keep = keep
        self._manifests: dict[int, Manifest] = {}
        self._known: dict[Path, _Known] = {}

    def steps(self) -> list[int]:
        """The committed versions, oldest first; one listing."""
        steps = self._shelf.steps()
        for gone in self._manifests.keys() - {*steps}:
            self._manifests.pop(gone, None)
        return steps

    def manifest(self, step: int) -> Manifest:
        """A version's manifest, taken at its word; read once. PolicyVersionError for a damaged one, or one of another step."""
        known = self._manifests.get(step)
        if known is not None:
            return known
        manifest = self._shelf.manifest(step)
        if manifest.step != step:
            raise PolicyVersionError(f"{self._shelf.place(step)}: the manifest is of step {manifest.step}")
        self._manifests[step] = manifest
        return manifest

    def fetch(self, step: int, *, like: Path | None = None) -> Path:
        """The directory of a version that was verified to its last number, and that fits an engine that holds `like`, fetched before.

        In this order: manifest, file sizes, digests, no other files; tokenizer, configuration and shapes as in `like`; finite values.
        What was verified and has not changed on disk is not read again. OSError: it could not be had, which says nothing against it.
        """
        manifest = self.manifest(step)
        try:
            place = self._copied(manifest, like) if self._shelf.local is None else version_path(self._shelf.local, step)
            known = self._verified(place, step)
            self._manifests[step] = known.manifest
            if like is not None:
                check_alike(known.layout, self._layout(like), place, like)
            if not known.finite:
                check_finite(place, known.manifest)
                self._known[place] = replace(known, finite=True)
            return place
        except OSError as error:
            if step in self._shelf.steps():
                raise
            raise PolicyVersionError(f"{self._shelf.place(step)}: deleted while it was fetched") from error

    def _verified(self, place: Path, step: int) -> _Known:
        """What is known of a directory, its digests and its layout at least."""
        seal = _seal(place)
        known = self._known.get(place)
        if known is None or known.seal != seal:
            manifest = verify_version(place, step=step)
            known = _Known(seal, manifest, read_layout(place, manifest))
            self._known[place] = known
        return known

    def _layout(self, like: Path) -> Layout:
        """Of what an engine holds: as it was when it was fetched, since it may have been deleted in the meantime."""
        known = self._known.get(like)
        return known.layout if known else read_layout(like, read_manifest(like))

    def _copied(self, manifest: Manifest, like: Path | None) -> Path:
        """The version's directory in the cache, where it is now whole."""
        place = self._cache / f"step-{manifest.step}-{manifest.weights_short}"
        with _alone(self._cache):
            if not self._is_whole(place, manifest):
                shutil.rmtree(place, ignore_errors=True)
                self._copy(manifest, place)
            now = time.time_ns()  # the kernel's own stamp is that of its last tick, the same for all within some milliseconds
            os.utime(place, ns=(now, now))  # used last
            self._evict({place, like})
        return place

    def _is_whole(self, place: Path, manifest: Manifest) -> bool:
        try:
            return self._verified(place, manifest.step).manifest == manifest
        except (OSError, PolicyVersionError):
            return False

    def _copy(self, manifest: Manifest, place: Path) -> None:
        """Beside its place first, so that a copy that is there is whole; what can be seen in a listing is refused before it is fetched."""
        step = manifest.step
        check_listing(manifest, self._shelf.sizes(step), self._shelf.place(step), step=step)
        for leftover in self._cache.glob(".*.tmp"):
            shutil.rmtree(leftover)
        draft = self._cache / f".{place.name}.{uuid.uuid4().hex}.tmp"
        draft.mkdir()
        try:
            self._shelf.download(step, draft)
            self._verified(draft, step)
            draft.rename(place)
            self._known[place] = self._known.pop(draft)
        except PolicyVersionError as error:
            raise PolicyVersionError(str(error).replace(str(draft), self._shelf.place(step))) from None
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def _evict(self, needed: set[Path | None]) -> None:
        """Delete the copies unused for longest, beyond the `keep` that may stay."""
        copies = sorted(self._cache.glob("step-*"), key=lambda copy: copy.stat().st_mtime_ns, reverse=True)
        for copy in copies[self._keep :]:
            if copy not in needed:
                shutil.rmtree(copy)


def _seal(place: Path) -> Seal:
    return frozenset((entry.name, stat.st_size, stat.st_mtime_ns) for entry in place.iterdir() for stat in (entry.stat(),))


@contextmanager
def _alone(cache: Path) -> Iterator[None]:
    """No other thread, and no other process of this machine, changes the cache meanwhile."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _default_cache(root: str) -> Path:
    caches = Path(os.environ.get("GMPO_CACHE", Path.home() / ".cache" / "gmpo"))
    return caches / "versions" / hashlib.sha256(root.encode()).hexdigest()[:16]
