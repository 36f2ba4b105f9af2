"""What the runs of a study left behind: the curves of each that ended, and how it ended."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.compare.series import RunCurves, read_run
from services.study.config import Cell, Study
from services.study.outcomes import OUTCOMES
from services.telemetry.jsonl import read_rows
from services.training.rundir import RunDirectory

DONE, DIVERGED, STOOD_STILL = "done", "diverged", "nothing_to_learn"


@dataclass(frozen=True, slots=True, eq=False)
class Ended:
    """A run whose figures are final."""

    cell: Cell
    seed: int
    outcome: str
    why: str
    curves: RunCurves
    seconds: float = math.nan  # of the driver that ended it

    @property
    def steps_planned(self) -> int:
        """Steps it would have made if nothing had ended it."""
        return int(self.curves.recipe["run"]["steps"])


@dataclass(frozen=True, slots=True, eq=False)
class Records:
    """A study and those of its runs that ended."""

    study: Study
    runs: Mapping[tuple[str, ...], Mapping[int, Ended]]  # {levels of the cell: {seed: run}}, every cell in it

    @property
    def ended(self) -> list[Ended]:
        """All of them, by cell and seed."""
        return [run for runs in self.runs.values() for run in runs.values()]

    @property
    def planned(self) -> int:
        """Runs of the whole study."""
        return len(self.study.cells) * len(self.study.seeds)


def read_records(study: Study) -> Records:
    """Read the directories of the study's runs; none need be there.

    ConfigError names a run that ended and cannot be read, or that was made with other settings than the study's.
    """
    outcomes = _outcomes(study.directory / OUTCOMES)
    runs = {
        cell.levels: {
            seed: _read(study, cell, seed, found)
            for seed in study.seeds
            if (found := outcomes.get(study.run_name(cell, seed))) and study.run_dir(cell, seed).is_dir()
        }
        for cell in study.cells
    }
    return Records(study, runs)


def _read(study: Study, cell: Cell, seed: int, found: dict[str, Any]) -> Ended:
    RunDirectory(study.recipe(cell, seed)).check()
    curves = read_run(study.run_dir(cell, seed))
    return Ended(cell, seed, found["outcome"], str(found.get("why", "")), curves, float(found.get("seconds", math.nan)))


def _outcomes(path: Path) -> dict[str, dict[str, Any]]:
    """{run: its outcome}, without touching the file: the study may be running. A line that is still being written is left out."""
    return {row["run"]: row for row in read_rows(path)}
