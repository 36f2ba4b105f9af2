"""How a study's runs ended: a line of `outcomes.jsonl` for each that came to an end of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from actors.errors import ConfigError
from services.telemetry.jsonl import read_rows
from services.training.rundir import locked

OUTCOMES = "outcomes.jsonl"
Kind = Literal["done", "diverged", "nothing_to_learn"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended."""

    run: str
    outcome: Kind
    why: str
    seconds: float  # of this driver
    packages: Mapping[str, str] = field(default_factory=dict)  # {name: version} of the environment that ended it; empty if not told


def ended(directory: Path) -> dict[str, dict[str, Any]]:
    """{run: its outcome} of the runs of a study that ended and are still there.

    Nothing is touched: the study may be running. A line that is still being written is left out.
    """
    return {row["run"]: row for row in read_rows(directory / OUTCOMES) if (directory / row["run"]).is_dir()}


class Outcomes:
    """A study's `outcomes.jsonl`: a line for every run that came to an end of its own. Only one driver at a time has it open."""

    def __init__(self, directory: Path) -> None:
        """ConfigError while another driver works on the study."""
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._file = (directory / OUTCOMES).open("a+", encoding="utf-8")
        if not locked(self._file):
            self._file.close()
            raise ConfigError(f"{directory} is in use by another driver")
        self._file.seek(0)
        lines = self._file.readlines()
        if lines and not lines[-1].endswith("\n"):  # cut while it was written: that run is looked at again
            lines.pop()
            self._file.truncate(len("".join(lines).encode()))
        self._ended = {row["run"]: Outcome(**row) for row in map(json.loads, lines)}

    def close(self) -> None:
        """Let another driver in."""
        self._file.close()

    def __contains__(self, run: str) -> bool:
        """Whether a run has ended; one whose directory was taken away is to be made again."""
        return run in self._ended and (self._directory / run).is_dir()

    def add(self, outcome: Outcome) -> None:
        """A run has ended."""
        self._ended[outcome.run] = outcome
        self._file.write(json.dumps(asdict(outcome)) + "\n")
        self._file.flush()
