"""A study: the same recipe in several cells, under several seeds each. A YAML file beside the recipes:

name: paper-small
title: The paper's ablations on two cores
recipe: ../recipes/tiny.yaml             beside this file
settings: [run.steps=60]                 over the recipe, for every run
seeds: [0, 1, 2]
baseline: grpo                           a level of the first factor: what the other levels are compared with
factors:                                 the cells are all combinations of their levels
  objective:
    gmpo: ["learner.objective={type: gmpo}"]
    grpo: ["learner.objective={type: grpo}"]
"""

from __future__ import annotations

import itertools
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, ValidationError, model_validator

from actors.errors import ConfigError
from actors.section import Section
from services.complaints import complaints
from services.config import Recipe, load_recipe, read_mapping

Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,39}$")]
"""What may be part of a directory's name."""
OURS = re.compile(r"run(\.(root|name|seed))?\s*=")
"""Settings that a study makes itself."""
Levels = Annotated[dict[Word, tuple[str, ...]], Field(min_length=1)]


class StudyConfig(Section):
    """What stands in a study's file."""

    name: Word
    """The runs are in `<run root>/<name>/`."""
    title: str
    """Heads the study's section of the results page."""
    recipe: Path
    """The recipe of every run, beside the study's file."""
    settings: tuple[str, ...] = ()
    """`section.field=value` over the recipe, in every run."""
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
    """Each cell is run once under each of them; cells are compared seed by seed."""
    baseline: str
    """The level of the first factor that its other levels are compared with."""
    notes: tuple[str, ...] = ()
    """Sentences for the results page: what a reader must know of the settings and no figure of the runs can tell."""
    factors: Annotated[dict[Word, Levels], Field(min_length=1)]
    """{factor: {level: the settings that make it}}."""

    @model_validator(mode="after")
    def _fits_itself(self) -> Self:
        first, levels = next(iter(self.factors.items()))
        if self.baseline not in levels:
            raise ValueError(f"baseline: {self.baseline!r} is no level of {first} ({', '.join(levels)})")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError("seeds: one stands there twice")
        cells = _cells(self)
        if len({cell.name for cell in cells}) != len(cells):
            raise ValueError("factors: two cells would have one name; levels are joined by '-'")
        for setting in itertools.chain(self.settings, *(cell.overrides for cell in cells)):
            if OURS.match(setting):
                raise ValueError(f"settings: {setting}: a study gives its runs their places, names and seeds")
        return self


@dataclass(frozen=True, slots=True)
class Cell:
    """One combination of levels, in the factors' order."""

    levels: tuple[str, ...]
    overrides: tuple[str, ...]

    @property
    def name(self) -> str:
        """As it stands in directories and tables."""
        return "-".join(self.levels)


@dataclass(frozen=True, slots=True)
class Study:
    """A study's file, read; every run of it is known to have a valid recipe."""

    path: Path
    config: StudyConfig
    cells: tuple[Cell, ...]

    @property
    def name(self) -> str:
        """Names the folder of its runs."""
        return self.config.name

    @property
    def title(self) -> str:
        """One line for people."""
        return self.config.title

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of every cell."""
        return self.config.seeds

    @property
    def baseline(self) -> str:
        """A level of the first factor."""
        return self.config.baseline

    @property
    def factors(self) -> dict[str, tuple[str, ...]]:
        """{factor: its levels}, in the file's order."""
        return {factor: tuple(levels) for factor, levels in self.config.factors.items()}

    @property
    def directory(self) -> Path:
        """Holds the run directories and `outcomes.jsonl`."""
        return Path(os.environ.get("GMPO_RUN_ROOT", "runs")) / self.name

    def run_name(self, cell: Cell, seed: int) -> str:
        """Of the run of a cell under a seed."""
        return f"{cell.name}-s{seed}"

    def run_dir(self, cell: Cell, seed: int) -> Path:
        """Where that run is, or will be."""
        return self.directory / self.run_name(cell, seed)

    def recipe(self, cell: Cell, seed: int) -> Recipe:
        """The recipe of that run. ConfigError names each bad field."""
        place = (f"run.root={self.directory}", f"run.name={self.run_name(cell, seed)}", f"run.seed={seed}")
        return load_recipe(self.path.parent / self.config.recipe, (*self.config.settings, *cell.overrides, *place))


def load_study(path: Path) -> Study:
    """Read a study, and try the recipe of each of its cells. ConfigError names what is wrong."""
    tree = read_mapping(path, "a study is a mapping")
    try:
        config = StudyConfig.model_validate(tree)
    except ValidationError as error:
        raise ConfigError("\n".join(f"{path}: {line}" for line in complaints(error, tree, StudyConfig))) from None
    study = Study(path, config, tuple(_cells(config)))
    for cell in study.cells:
        try:
            recipe = study.recipe(cell, config.seeds[0])
        except ConfigError as error:
            raise ConfigError(f"{path}: in the cell {cell.name}: {error}") from None
        if recipe.run.storage:
            raise ConfigError(f"{path}: in the cell {cell.name}: run.storage: a study keeps each run's checkpoints in its own directory")
    return study


def _cells(config: StudyConfig) -> list[Cell]:
    combinations = itertools.product(*(levels.items() for levels in config.factors.values()))
    return [Cell(tuple(level for level, _ in chosen), tuple(itertools.chain(*(given for _, given in chosen)))) for chosen in combinations]
