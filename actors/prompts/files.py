"""Rows out of files: JSON arrays, JSON lines and Parquet, on a disk or behind a URL."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.fs as fs
import pyarrow.parquet as pq

from actors.errors import DataError
from actors.prompts.problems import Reason


class Raw(NamedTuple):
    """A row as it was read: its name, and what it holds or why it holds nothing."""

    name: str
    value: Any | Reason


def check_files(paths: Sequence[str]) -> None:
    """Raises DataError with every path that is not a file."""
    missing = [path for path in paths if not _is_file(path)]
    if missing:
        raise DataError(f"prompts: no such file: {', '.join(missing)}")


def read_files(paths: Sequence[str]) -> Iterator[Raw]:
    """All rows of all files, named `file.jsonl#17` by line or position counted from 1.

    Where two of the files share a name, the whole path stands for it.
    """
    check_files(paths)
    names = [Path(path).name for path in paths]
    for path, name in zip(paths, names, strict=True):
        yield from _read(path, name if names.count(name) == 1 else path)


def _read(path: str, label: str) -> Iterator[Raw]:
    content = _content(path)
    try:
        if content.startswith(b"PAR1"):
            rows: Iterator[tuple[int, Any]] = enumerate(pq.read_table(pa.BufferReader(content)).to_pylist(), 1)
        else:
            text = content.decode("utf-8-sig")
            rows = enumerate(json.loads(text), 1) if text.lstrip().startswith("[") else _lines(text)
    except (ValueError, RecursionError, pa.ArrowException) as error:
        raise DataError(f"{path} is neither JSON nor Parquet: {error}") from error
    for number, value in rows:
        yield Raw(f"{label}#{number}", value)


def _lines(text: str) -> Iterator[tuple[int, Any]]:
    # Not splitlines: it also breaks at U+2028 and its like, which JSON allows inside a string.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, _parsed(line)


def _parsed(line: str) -> Any | Reason:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return Reason.NOT_JSON


def _content(path: str) -> bytes:
    try:
        if "://" not in path:
            return Path(path).expanduser().read_bytes()
        filesystem, inner = fs.FileSystem.from_uri(path)
        with filesystem.open_input_stream(inner) as stream:
            content: bytes = stream.read()
            return content
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"cannot read {path}: {error}") from error


def _is_file(path: str) -> bool:
    if "://" not in path:
        return Path(path).expanduser().is_file()
    try:
        filesystem, inner = fs.FileSystem.from_uri(path)
        return bool(filesystem.get_file_info(inner).is_file)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"cannot read {path}: {error}") from error
