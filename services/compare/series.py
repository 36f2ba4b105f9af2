"""Runs read for comparison: the curves of each, and those under one recipe with different seeds as one series."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from actors.errors import ConfigError
from services.compare.settings import key_of, labels
from services.compare.style import own_place
from services.config import NOT_YAML, parse_recipe, resolved
from services.telemetry.history import read_history
from services.training.rundir import recipe_of

EVALUATIONS = "eval/"
"""Begins the names of the figures of held-out questions, which are asked less often than every step."""


@dataclass(frozen=True, slots=True, eq=False)
class RunCurves:
    """What one run wrote, ended or not."""

    path: Path
    name: str
    recipe: dict[str, Any]  # the resolved tree
    seed: int
    steps: np.ndarray  # [T] int, rising; empty before the first step is done
    metrics: Mapping[str, np.ndarray]  # [T] float each, nan where a step lacks it
    evaluations: tuple[dict[str, Any], ...]  # of held-out questions, by step: step, sampled, greedy, n, ...

    def curve(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """(steps, values) of a metric where it is finite; "eval/sampled" and "eval/greedy" are of the evaluations, step 0 among them."""
        asked = [(row["step"], row[kind]) for row in self.evaluations if row.get(kind := name.removeprefix(EVALUATIONS)) is not None]
        if name.startswith(EVALUATIONS) and asked:
            steps, values = np.array([step for step, _ in asked], int), np.array([value for _, value in asked], float)
        else:
            steps, values = self.steps, self.metrics.get(name, np.full(len(self.steps), np.nan))
        there = np.isfinite(values)
        return steps[there], values[there]


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """The runs of one recipe, one a seed; or whatever else is drawn as one line."""

    label: str
    runs: tuple[RunCurves, ...]


def read_run(path: Path) -> RunCurves:
    """The curves of the run in `path`, as far as it has come. ConfigError names what is not there or cannot be read."""
    recipe = _read_recipe(recipe_of(path))
    try:
        history = read_history(path, rollouts=False)
        steps = np.array([int(row["step"]) for row in history.metrics], int)
        names = dict.fromkeys(name for row in history.metrics for name in row if name not in {"step", "time"})
        metrics = {name: np.array([_number(row.get(name)) for row in history.metrics]) for name in names}
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise ConfigError(f"{path}: its figures cannot be read: {error!r}") from None
    run = recipe.get("run", {})
    return RunCurves(
        path=path,
        name=str(run.get("name", path.resolve().name)),
        recipe=recipe,
        seed=int(run.get("seed", 0)),
        steps=steps,
        metrics=metrics,
        evaluations=tuple(history.evaluations),
    )


def grouped(runs: Iterable[RunCurves]) -> list[Series]:
    """Runs under the same settings as one series each: GMPO, GRPO, their variants, others as they come; a run given twice counts once.

    Settings that cannot change what is learned (`settings.APART`) may differ within a series. A label says what sets its series apart.
    """
    different = {run.path.resolve(): run for run in runs}.values()
    groups: dict[str, list[RunCurves]] = {}
    for run in different:
        groups.setdefault(key_of(run.recipe), []).append(run)
    ordered = [tuple(sorted(group, key=lambda run: (run.seed, run.name))) for group in groups.values()]
    if len(ordered) == 1:
        return [Series(_of_one(ordered[0]), ordered[0])]
    named = zip(labels([group[0].recipe for group in ordered]), ordered, strict=True)
    return sorted((Series(label, group) for label, group in named), key=lambda series: own_place(series.label))


def _of_one(runs: Sequence[RunCurves]) -> str:
    objective = runs[0].recipe.get("learner", {}).get("objective", {}).get("type")
    return runs[0].name if len(runs) == 1 or objective is None else str(objective)


def _read_recipe(path: Path) -> dict[str, Any]:
    """A run's settings, with today's defaults for those that are younger than the run."""
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except NOT_YAML as error:
        raise ConfigError(f"{path}: not a YAML file: {error}") from None
    if not isinstance(tree, dict) or not isinstance(tree.get("run", {}), dict):
        raise ConfigError(f"{path}: a recipe is a mapping of sections")
    try:
        return resolved(parse_recipe(tree))
    except ConfigError:  # a setting that is no more: what the run wrote can be drawn all the same
        return tree


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else np.nan
