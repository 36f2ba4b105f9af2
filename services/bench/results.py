"""What a benchmark found: rows of figures, ratios between them, the aims they are held against, and where it was measured."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

Row = Mapping[str, str | float | int | None]
"""One line of the table: names carry their units, `way` says what was measured; None is a figure that could not be had."""

VERSIONS = ("torch", "transformers", "numpy")


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure measured several times."""

    median: float
    low: float  # least
    high: float  # greatest
    repeats: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of at least one value."""
        return cls(statistics.median(values), min(values), max(values), len(values))


@dataclass(frozen=True, slots=True)
class Aim:
    """A bound that a ratio is to keep; `met` speaks of the median."""

    ratio: str
    bound: float
    kind: str  # "at least" or "at most"
    measured: float
    met: bool

    @classmethod
    def at_least(cls, ratio: str, bound: float, spread: Spread) -> Aim:
        """The ratio's median is to be `bound` or more."""
        return cls(ratio, bound, "at least", spread.median, spread.median >= bound)

    @classmethod
    def at_most(cls, ratio: str, bound: float, spread: Spread) -> Aim:
        """The ratio's median is to be `bound` or less."""
        return cls(ratio, bound, "at most", spread.median, spread.median <= bound)


@dataclass(frozen=True, slots=True)
class Report:
    """One run of one benchmark, as the screen shows it and as JSON."""

    bench: str
    device: str
    settings: Mapping[str, Any]
    rows: Sequence[Row]
    ratios: Mapping[str, Spread] = field(default_factory=dict)
    aims: Sequence[Aim] = ()
    notes: Sequence[str] = ()  # what a reader must know to read the rows

    def as_json(self) -> str:
        """The whole report with its surroundings: CPUs, versions, date."""
        surroundings = {"cpu_count": os.cpu_count(), "versions": versions(), "date": datetime.now(UTC).isoformat(timespec="seconds")}
        return json.dumps(asdict(self) | surroundings, indent=2)

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.as_json() + "\n", encoding="utf-8")


def ratios(over: Sequence[float], under: Sequence[float]) -> Spread:
    """Ratios of figures of the same rounds: a busy machine slows both sides of a round alike."""
    return Spread.of([a / b for a, b in zip(over, under, strict=True)])


def versions() -> dict[str, str]:
    """Versions of what the figures depend on."""
    return {"python": platform.python_version()} | {name: version(name) for name in VERSIONS}


def device_name(device: str) -> str:
    """The processor or the GPU, in its maker's words."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return f"CPU, {next(named, platform.processor() or platform.machine())}"
