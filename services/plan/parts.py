"""What a process's memory is made of: named parts, and those of them that are there at the same time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

MIB, GIB = 2**20, 2**30
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Of one number, by type."""

Parts = Mapping[str, float]
"""Bytes by what they are for; all of them at the same time."""


@dataclass(frozen=True, slots=True)
class Peak:
    """The moment at which a process needs most."""

    when: str
    parts: Parts

    @property
    def size(self) -> float:
        """Bytes."""
        return sum(self.parts.values())


def highest(moments: Iterable[Peak]) -> Peak:
    """The moment that needs most."""
    return max(moments, key=lambda moment: moment.size)
