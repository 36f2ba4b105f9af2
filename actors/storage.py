"""Where files are kept: a path of this machine, or any URL that pyarrow opens (s3://bucket/run, file:///mnt/run)."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from pyarrow import ArrowInvalid
from pyarrow.fs import FileSystem, LocalFileSystem

from actors.errors import ConfigError


def is_url(place: str) -> bool:
    """Whether it names its file system, as a path does not."""
    return "://" in place


def joined(root: str, name: str) -> str:
    """The path or URL of what lies in `root` under this name; a URL's options (`?endpoint_override=...`) stay at its end."""
    place, mark, options = root.partition("?") if is_url(root) else (root, "", "")
    return f"{place.rstrip('/')}/{name}{mark}{options}"


def open_root(root: str) -> tuple[FileSystem, str]:
    """The file system behind a path or URL, and the path in it. ConfigError for a URL that pyarrow does not understand."""
    if not is_url(root):
        return LocalFileSystem(), str(Path(root).absolute())
    try:
        return _opened(root)
    except ArrowInvalid as error:
        raise ConfigError(f"{root}: {error}") from None


@lru_cache(maxsize=64)
def _opened(url: str) -> tuple[FileSystem, str]:
    """One client for each URL: making one can take a request of its own."""
    filesystem, path = FileSystem.from_uri(url)
    return filesystem, str(path).rstrip("/")
