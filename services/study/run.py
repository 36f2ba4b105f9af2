"""Runs a study: one run after another through the same pools and learner group, which stay up between them.

seed by seed, and in each every cell:   done already? ─► next
                                        else ─► crew up, if there is none that fits ─► drive ─► outcomes.jsonl

A run is a run directory like any other, and `gmpo train` makes the same of its recipe. A run that is cut is gone on with by the same
command. One that ends in collapse has a result too; the crew it ended with is not used again.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence

from actors.errors import ConfigError, LearnerError, NothingToLearn, TrainingDiverged
from services import cluster
from services.config import Recipe
from services.export.origin import installed
from services.study.config import Study
from services.study.crew import Crew
from services.study.outcomes import Kind, Outcome, Outcomes, ended
from services.telemetry.console import Console, open_console, screen
from services.telemetry.figures import clock
from services.training.checks import check, check_device
from services.training.drive import StopSigns, drive, opened
from services.training.rundir import RunDirectory
from services.training.train import connected, is_done, prepared

Tell = Callable[[str], None]


def conduct(study: Study, tell: Tell) -> bool:
    """Run what is left of a study; whether nothing is left then (else it was asked to stop).

    Raises UsageError before anything starts, and whatever a run ends with other than collapse; the same command goes on then.
    """
    recipes = planned(study)
    with contextlib.closing(Outcomes(study.directory)) as outcomes:
        left = [recipe for recipe in recipes if recipe.run.name not in outcomes]
        tell(f"{study.title}: {len(recipes)} runs in {study.directory}, {len(recipes) - len(left)} of them have ended")
        return not left or _conduct(left, outcomes, total=len(recipes), tell=tell)


def planned(study: Study) -> list[Recipe]:
    """Recipes of all runs, seed by seed: a study that is cut has its cells under the same seeds.

    ConfigError where they are of several clusters, or where a run that began, or ended, was made of another recipe.
    """
    recipes = [study.recipe(cell, seed) for seed in study.seeds for cell in study.cells]
    if any(recipe.cluster != recipes[0].cluster for recipe in recipes):
        raise ConfigError(f"{study.path}: cluster: all runs of a study are of one cluster")
    over = ended(study.directory)
    for recipe in recipes:
        RunDirectory(recipe).check(ended=recipe.run.name in over)
    return recipes


def _conduct(recipes: Sequence[Recipe], outcomes: Outcomes, *, total: int, tell: Tell) -> bool:
    for recipe in recipes:
        check(recipe)
    with connected(recipes[0]):
        for recipe in recipes:
            check_device(recipe, gpu=cluster.has_gpu(recipe.cluster))
        return asyncio.run(_Campaign(recipes, outcomes, total, tell).run())


class _Campaign:
    """Works through a study's runs with one crew at a time."""

    def __init__(self, recipes: Sequence[Recipe], outcomes: Outcomes, total: int, tell: Tell) -> None:
        self._recipes, self._outcomes, self._total, self._tell = recipes, outcomes, total, tell
        self._crew: Crew | None = None

    async def run(self) -> bool:
        """Whether all runs have ended, and nobody asked to stop."""
        signs, seconds = StopSigns(), list[float]()
        try:
            for number, recipe in enumerate(self._recipes):
                began = time.monotonic()
                outcome = await self._one(recipe, signs)
                if outcome is None:
                    return False
                self._outcomes.add(outcome)
                seconds.append(time.monotonic() - began)
                left = len(self._recipes) - number - 1
                pace = f"{self._total - left} of {self._total}, about {clock(left * sum(seconds) / len(seconds))} left"
                why = f" ({outcome.why})" if outcome.why else ""
                self._tell(f"{outcome.run}: {outcome.outcome}{why} in {seconds[-1]:.0f} s; {pace}")
            return not signs.seen
        finally:
            await self._dismiss()

    async def _one(self, recipe: Recipe, signs: StopSigns) -> Outcome | None:
        """One run to its end; None if it was asked to stop before."""
        run, began = RunDirectory(recipe), time.monotonic()

        def outcome(kind: Kind, why: str = "") -> Outcome:
            return Outcome(recipe.run.name, kind, why, time.monotonic() - began, installed())

        while True:
            try:
                with contextlib.closing(run):
                    whole = is_done(recipe, run) or await self._driven(recipe, run, signs)
                return outcome("done") if whole else None
            except LearnerError as error:
                if self._crew is None or self._crew.begun <= 1:  # it had all its restarts for this run
                    raise
                self._tell(f"{recipe.run.name}: {error}; it goes on with a new group")
                await self._dismiss()
            except (TrainingDiverged, NothingToLearn) as error:
                await self._dismiss()
                return outcome("diverged" if isinstance(error, TrainingDiverged) else "nothing_to_learn", str(error))

    async def _driven(self, recipe: Recipe, run: RunDirectory, signs: StopSigns) -> bool:
        """Drive a run until it is done; False if it was asked to stop."""
        model, stream = await asyncio.to_thread(prepared, recipe, run, self._tell)  # which may teach or fetch for minutes
        if signs.seen:
            return False
        with self._console(recipe) as console, opened(recipe, run, stream, model, console) as job:
            if self._crew is None or not self._crew.fits(recipe):
                await self._dismiss()
                self._tell(f"{recipe.run.name}: engines, verifiers and learner group start")
                await cluster.require(recipe, gpu=cluster.has_gpu(recipe.cluster), tell=self._tell)
                self._crew = Crew(job)
            return await drive(job, self._crew.pools, self._crew.begin, signs)

    @staticmethod
    def _console(recipe: Recipe) -> Console:
        """Steps are shown on a terminal only: a study has thousands."""
        mode = recipe.telemetry.console
        mode = "off" if mode == "auto" and not screen().file.isatty() else mode
        return open_console(mode, run_name=recipe.run.name, steps=recipe.run.steps)

    async def _dismiss(self) -> None:
        crew, self._crew = self._crew, None
        if crew is not None:
            await crew.close()
