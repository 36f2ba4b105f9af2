"""API keys: random secrets that are kept as hashes only, each with a name, a scope and perhaps an end.

    {"keys": [{"name": "ana", "scope": "query", "sha256": "...", "expires": "2027-01-01T00:00:00Z"}, ...]}

Keys have 256 random bits, so a plain digest cannot be guessed back. To rotate a key, add the new one, let its users change over, take
the old one out: the file is read again when it changes.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from pydantic import AwareDatetime, Field, ValidationError

from actors.errors import ConfigError
from actors.section import Section
from services.telemetry.atomic import write_atomically

PREFIX = "gmpo-"


class Scope(StrEnum):
    """What a key allows; admin includes query."""

    QUERY = "query"
    ADMIN = "admin"


class Key(Section):
    """One key, as far as it is kept."""

    name: str = Field(min_length=1, max_length=100)
    """Who it belongs to; appears in metrics, and never the key itself."""
    scope: Scope = Scope.QUERY
    """What it allows."""
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    """Digest of the secret."""
    expires: AwareDatetime | None = None
    """When it stops being good; null: never."""

    def allows(self, scope: Scope) -> bool:
        """Whether a request of this scope may pass."""
        return scope in (Scope.QUERY, self.scope)


class _File(Section):
    keys: tuple[Key, ...]


def make(name: str, scope: Scope, *, expires: datetime | None = None) -> tuple[str, Key]:
    """(a new secret, what is kept of it)."""
    secret = PREFIX + secrets.token_urlsafe(32)
    return secret, Key(name=name, scope=scope, sha256=_digest(secret), expires=expires)


def read(path: Path) -> tuple[Key, ...]:
    """The keys of a file; ConfigError if it cannot be read."""
    try:
        return _File.model_validate_json(path.read_bytes()).keys
    except OSError as error:
        raise ConfigError(f"serve.keys_file: {path}: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"serve.keys_file: {path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def add(path: Path, key: Key) -> None:
    """Append a key to a file, made if there is none; ConfigError if it has one of that name."""
    held = read(path) if path.exists() else ()
    if any(key.name == other.name for other in held):
        raise ConfigError(f"{path} has a key named {key.name!r} already; give the new one another name and take the old one out later")
    write_atomically(path, _File(keys=(*held, key)).model_dump_json(indent=2) + "\n", mode=0o600)


class KeyRing:
    """The keys that are good now: some given at the start, and those of a file."""

    def __init__(self, given: Iterable[Key] = (), file: Path | None = None) -> None:
        """ConfigError if the file cannot be read."""
        self._given, self._file = tuple(given), file
        self._keys = self._given + (read(file) if file else ())
        self._seen = _stamp(file)

    def refresh(self) -> None:
        """Read the file again if it changed; one that cannot be read raises ConfigError, and the keys stay as they were."""
        stamp = _stamp(self._file)
        if self._file is not None and stamp != self._seen:
            self._seen = stamp
            self._keys = self._given + read(self._file)

    def find(self, secret: str) -> Key | None:
        """The key of a secret. Every key is compared, in constant time, so that the time tells nothing."""
        digest, found = _digest(secret), None
        for key in self._keys:
            if hmac.compare_digest(key.sha256, digest):
                found = key
        return None if found is None or _is_over(found) else found


def _is_over(key: Key) -> bool:
    return key.expires is not None and key.expires <= datetime.now(UTC)


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode(errors="surrogateescape")).hexdigest()


def _stamp(file: Path | None) -> tuple[int, int, int] | None:
    """What changes with the file's contents; None while it is not there."""
    if file is None or not file.exists():
        return None
    stat = file.stat()
    return stat.st_mtime_ns, stat.st_size, stat.st_ino
