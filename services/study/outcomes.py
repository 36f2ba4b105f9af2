"""How a study's runs ended: a line of `outcomes.jsonl` for each that came to an end of its own."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from services.telemetry.atomic import write_atomically

OUTCOMES = "outcomes.jsonl"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended."""

    run: str
    outcome: Literal["done", "diverged", "nothing_to_learn"]
    why: str
    seconds: float  # of this driver


class Outcomes:
    """A study's `outcomes.jsonl`: a line for every run that came to an end of its own."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._file = directory / OUTCOMES
        lines = self._file.read_text(encoding="utf-8").splitlines(keepends=True) if self._file.exists() else []
        if lines and not lines[-1].endswith("\n"):  # cut while it was written: that run is looked at again
            write_atomically(self._file, "".join(lines := lines[:-1]))
        self._ended = {row["run"]: Outcome(**row) for row in map(json.loads, lines)}

    def __contains__(self, run: str) -> bool:
        return run in self._ended

    def add(self, outcome: Outcome) -> None:
        """A run has ended."""
        self._ended[outcome.run] = outcome
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps({name: getattr(outcome, name) for name in Outcome.__slots__}) + "\n")
