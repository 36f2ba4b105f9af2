"""Evaluating versions as they come, while the run trains: one at a time, the newest first."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from actors.errors import EngineError, PolicyVersionError, UsageError
from actors.weights.manifest import read_manifest
from actors.weights.version import version_path
from services.config import load_recipe
from services.evaluation.ask import Asker
from services.evaluation.config import LiveEvaluationConfig, SuiteConfig
from services.evaluation.evaluate import Notify, Place, evaluate
from services.evaluation.results import Result, read_result, result_path
from services.evaluation.suites import check, load_suite
from services.training.rundir import recipe_of

log = logging.getLogger(__name__)

PATIENCE_S = 60.0
"""Seconds for which one question is repeated where the endpoint refuses it; after that the watcher looks again from the start."""


class Examiner(Protocol):
    """What a watcher watches and does; `Live` over an endpoint, or a test's."""

    async def versions(self) -> list[int]:
        """Steps of the versions there are; EngineError while nobody answers."""

    def is_done(self, step: int) -> bool:
        """Whether this version has a result."""

    async def evaluate(self, step: int) -> Result:
        """Evaluate a version. EngineError if the endpoint is away, PolicyVersionError or UsageError if this version cannot be evaluated."""


class Watcher:
    """Evaluates every n-th version, and the run's last one, each once.

    A version that came while another was evaluated waits; of several the newest is next, since it says most about the run. One that
    cannot be had (deleted meanwhile, or refused), or that another process evaluates, is passed over. Cancelling `run` loses nothing: an
    evaluation goes on where it was.
    """

    def __init__(
        self, examiner: Examiner, *, every: int, last: int, poll_s: float, wait: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self._examiner, self._every, self._last, self._poll_s, self._wait = examiner, every, last, poll_s, wait
        self._passed_over: set[int] = set()

    async def run(self) -> None:
        """Watch until cancelled. UsageError, as for a key that the endpoint does not know, ends it."""
        while True:
            try:
                while (step := self._next(await self._examiner.versions())) is not None:
                    await self._evaluate(step)
            except EngineError as error:
                log.warning("evaluation waits for the endpoint: %s", error)
            await self._wait(self._poll_s)

    def _next(self, steps: Iterable[int]) -> int | None:
        wanted = (step for step in steps if step % self._every == 0 or step == self._last)
        return max((step for step in wanted if step not in self._passed_over and not self._examiner.is_done(step)), default=None)

    async def _evaluate(self, step: int) -> None:
        try:
            await self._examiner.evaluate(step)
        except (PolicyVersionError, UsageError) as error:
            log.warning("step %d is not evaluated: %s", step, error)
            self._passed_over.add(step)


@dataclass(frozen=True, slots=True)
class Live:
    """One suite, put to a run's versions through its endpoint."""

    place: Place
    suite: SuiteConfig
    asker: Asker
    notify: Notify

    async def versions(self) -> list[int]:
        return await self.asker.versions()

    def is_done(self, step: int) -> bool:
        """By these weights; where the version cannot be read any more, there is nothing left to do."""
        result = read_result(result_path(self.place.run_dir, self.suite.name, step))
        if result is None:
            return False
        try:
            return result.weights == read_manifest(version_path(self.place.run_dir / "policies", step)).weights_sha256
        except PolicyVersionError:
            return True

    async def evaluate(self, step: int) -> Result:
        result = await evaluate(self.place, self.suite, f"policy@step-{step}", self.asker, lambda progress: None)
        found = result.overall.pass_at[1]
        self.notify(f"{self.suite.name} at step {step}: pass@1 {found.value:.3f} ({found.low:.3f} to {found.high:.3f})")
        return result


async def watch(run_dir: Path, config: LiveEvaluationConfig, *, url: str, key: str | None, notify: Notify) -> None:
    """Watch a run through its endpoint until cancelled; `config.every` is above 0.

    UsageError and its kind where the suite cannot be asked, or the endpoint does not take the key.
    """
    recipe = load_recipe(recipe_of(run_dir))
    place, suite = Place(run_dir, Path(config.data), config.concurrency), load_suite(config.suite)
    await asyncio.to_thread(check, suite, recipe, place.data)
    async with Asker(url, key, patience_s=PATIENCE_S) as asker:
        live = Live(place, suite, asker, notify)
        await Watcher(live, every=config.every, last=recipe.run.steps, poll_s=config.poll_s).run()
