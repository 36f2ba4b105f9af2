"""Pools of processes, and the GPUs that members of several of them share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from services.plan.inference import Engine
from services.plan.parts import Parts, Peak, size

WHOLE = 1 + 1e-6
"""A GPU, and what sums of its parts may be off by."""


@dataclass(frozen=True, slots=True)
class Pool:
    """Processes of one kind."""

    name: str
    members: int  # the most there can be
    gpus: float  # of one member; 0 on a CPU
    host: Parts  # of one member's processes
    device: Peak | None = None  # on one of its GPUs
    limit: float = 0.0  # bytes it may take there
    start: float = 0.0  # bytes that it takes there at the start, however many members there are
    once: Parts = field(default_factory=dict)  # host memory of one member alone, beside `host`
    room: Engine | None = None  # for an engine: keys and values

    @property
    def all_host(self) -> float:
        """Bytes of host memory of the whole pool."""
        return self.members * size(self.host) + size(self.once)

    @property
    def all_gpus(self) -> float:
        """GPUs of the whole pool."""
        return self.members * self.gpus

    @property
    def shares(self) -> bool:
        """Whether others may lie on its members' GPUs."""
        return 0 < self.gpus < 1

    @property
    def fits(self) -> bool:
        """Whether each member's part fits its GPU, and an engine's has room for one response at least. Host memory is not judged."""
        if self.room is not None and self.room.responses < 1:
            return False
        return self.device is None or self.device.size <= self.limit


@dataclass(frozen=True, slots=True)
class SharedGpu:
    """A GPU whose parts belong to these pools; a pool with two members on it is named twice."""

    pools: tuple[Pool, ...]

    @property
    def size(self) -> float:
        """Bytes, if all members need most at the same moment."""
        return sum(pool.device.size for pool in self.pools if pool.device is not None)

    @property
    def limit(self) -> float:
        """Bytes they may take together: what the strictest of them is allowed."""
        return min(pool.limit for pool in self.pools)

    @property
    def fits(self) -> bool:
        """Whether they have room together."""
        return self.size <= self.limit

    @property
    def names(self) -> str:
        """Who shares it."""
        return ", ".join(pool.name for pool in self.pools)


def shared_gpus(pools: Iterable[Pool]) -> tuple[SharedGpu, ...]:
    """The GPUs of all members that ask for a part of one, each put where the first part is left, in the order of the pools."""
    filled: list[tuple[Pool, ...]] = []
    for pool in pools:
        for _ in range(pool.members if pool.shares else 0):
            place = next((index for index, held in enumerate(filled) if _parts(held) + pool.gpus <= WHOLE), None)
            if place is None:
                filled.append((pool,))
            else:
                filled[place] += (pool,)
    return tuple(SharedGpu(held) for held in filled)


def _parts(held: tuple[Pool, ...]) -> float:
    return sum(pool.gpus for pool in held)
