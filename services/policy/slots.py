"""A slot: an engine, the version that it holds, and how many requests have it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from actors.weights.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Version:
    """A verified version on this machine's disk."""

    manifest: Manifest
    path: Path

    @property
    def step(self) -> int:
        """Its step."""
        return self.manifest.step

    @property
    def name(self) -> str:
        """What a client calls it."""
        return f"policy@step-{self.step}"

    @property
    def fingerprint(self) -> str:
        """What answers carry as `system_fingerprint`."""
        return f"gmpo-step-{self.step}-{self.manifest.weights_short}"


class Engine(Protocol):
    """What a slot needs of an engine."""

    async def load(self, model: Path) -> None:
        """Take other weights; a failure leaves it without any."""

    def introduce(self, name: str, fingerprint: str) -> None:
        """What its answers call themselves."""

    @property
    def dead(self) -> bool:
        """Whether it has ended."""

    def stop(self) -> None:
        """End it; blocks."""


E = TypeVar("E", bound=Engine)


@dataclass(slots=True, eq=False)
class Slot(Generic[E]):
    """An engine and the version it holds."""

    engine: E
    version: Version
    running: int = 0  # requests that have it
    loaded: float = 0.0  # monotonic seconds
    used: float = 0.0
    leaving: bool = False  # admits nobody: the version is about to go
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def answers(self) -> bool:
        """Whether it may be given to another request."""
        return not self.leaving and not self.engine.dead

    def take(self) -> Slot[E]:
        """Itself, one more request on it."""
        self.running += 1
        self.used = time.monotonic()
        self.idle.clear()
        return self

    def give_back(self) -> None:
        """A request has ended."""
        self.running -= 1
        self.used = time.monotonic()
        if self.running == 0:
            self.idle.set()
