"""Which version of which run is meant by `RUN@version`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from actors.errors import ConfigError, UnknownVersion, UsageError
from services.config import Recipe, load_recipe
from services.policy import ranking
from services.policy.catalogue import Catalogue
from services.training.rundir import policies_of, recipe_of

NEWEST, BEST = "newest", "best"
_STEP = re.compile(r"(?:step-)?(0|[1-9]\d{0,11})")


@dataclass(frozen=True, slots=True)
class Chosen:
    """A committed version, not yet verified."""

    run_dir: Path
    recipe: Recipe
    catalogue: Catalogue
    step: int
    best_by: str | None = None  # the metric, where the version was chosen for having the greatest value of it


def choose(text: str) -> Chosen:
    """The version meant by `RUN@step-N`, `RUN@N`, `RUN@best`, `RUN@newest` or RUN alone, which is the newest.

    Best is by the metric `serve.best_by` of the run's recipe, as for `policy@best`. ConfigError if there is no such run or the version is
    not written so, UnknownVersion if the run has no such version, UsageError if its storage cannot be read.
    """
    run, _, version = text.rpartition("@")
    if not run or Path(text).is_dir():
        run, version = text, NEWEST
    if version not in (NEWEST, BEST) and not _STEP.fullmatch(version):
        raise ConfigError(f"{text}: a version is written {run}@step-N, {run}@{BEST} or {run}@{NEWEST}")
    run_dir = Path(run)
    recipe = load_recipe(recipe_of(run_dir))
    catalogue = Catalogue(policies_of(run_dir, recipe))
    try:
        steps = catalogue.steps()
    except OSError as error:
        raise UsageError(f"{run}: its versions cannot be listed: {error}") from None
    if not steps:
        raise UnknownVersion(f"{run} has no policy version yet")
    if version == BEST:
        by = recipe.serve.best_by
        return Chosen(run_dir, recipe, catalogue, _best(run_dir, by, steps), by)
    step = steps[-1] if version == NEWEST else int(version.removeprefix("step-"))
    if step not in steps:
        raise UnknownVersion(f"{run} has no version of step {step}; it has those of steps {', '.join(map(str, steps))}")
    return Chosen(run_dir, recipe, catalogue, step)


def _best(run_dir: Path, by: str, steps: list[int]) -> int:
    step = ranking.best(ranking.metrics_by_step(run_dir), by, steps)
    if step is None:
        raise UnknownVersion(f"no version of {run_dir} has been evaluated by {by}, so none is the best")
    return step
