"""What sandbox and child say to each other over their socket.

Down go length-prefixed pickles, first one `Setup`, then lists of samples: they come from ourselves, and columns hold arbitrary objects.
Up come lines of JSON, never pickles, since the child runs on untrusted text: one line when it is warm, then one per sample, each as soon as
it is graded, so that the sandbox can time them one by one.
"""

from __future__ import annotations

import json
import pickle
import struct
from dataclasses import dataclass
from typing import Any, Protocol

from actors.reward.config import RewardConfig

_HEADER = struct.Struct("!Q")  # length of the pickle that follows

LINE_BYTES = 1 << 20
"""No line from a child is longer: its texts are cut to a few kilobytes, and its parts are those of the recipe."""


class Readable(Protocol):
    """A blocking stream whose `read` is short only at its end."""

    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Setup:
    """What a child is told once."""

    config: RewardConfig
    tasks: tuple[str, ...]  # to be warm for


def frame(message: object) -> bytes:
    """A message for the child."""
    body = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    return _HEADER.pack(len(body)) + body


def receive(stream: Readable) -> Any:
    """The child's next message; None once the sandbox has closed."""
    header = stream.read(_HEADER.size)
    if len(header) < _HEADER.size:
        return None
    return pickle.loads(stream.read(_HEADER.unpack(header)[0]))


def line(**message: Any) -> bytes:
    """A message from the child. ASCII, so that lone surrogates, NULs and newlines in it pass unchanged."""
    return json.dumps(message).encode("ascii") + b"\n"
