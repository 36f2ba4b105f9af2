"""What the runs of a study left behind: the curves of each that ended, and how it ended."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from actors.errors import PolicyVersionError
from actors.weights.manifest import read_manifest
from actors.weights.version import version_path
from services.compare.series import RunCurves, read_run
from services.study.config import Cell, Study
from services.study.outcomes import ended
from services.training.rundir import POLICIES, RunDirectory

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
    packages: Mapping[str, str] = field(default_factory=dict)  # that it was ended with; empty if not told
    start: str = ""  # digest of the weights it began with; empty if they are gone

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
    outcomes = ended(study.directory)
    runs = {
        cell.levels: {seed: _read(study, cell, seed, found) for seed in study.seeds if (found := outcomes.get(study.run_name(cell, seed)))}
        for cell in study.cells
    }
    return Records(study, runs)


def _read(study: Study, cell: Cell, seed: int, found: dict[str, Any]) -> Ended:
    RunDirectory(study.recipe(cell, seed)).check(ended=True)
    curves = read_run(study.run_dir(cell, seed))
    return Ended(
        cell,
        seed,
        found["outcome"],
        str(found.get("why", "")),
        curves,
        float(found.get("seconds", math.nan)),
        found.get("packages", {}),
        _start(study.run_dir(cell, seed)),
    )


def _start(run_dir: Path) -> str:
    try:
        return read_manifest(version_path(run_dir / POLICIES, 0)).weights_short
    except PolicyVersionError:
        return ""
