"""`gmpo bench pipeline`: what the pipeline itself costs. Conductor, queue, admission and pools are real; the rest only sleeps.

overlap    seconds a step, with learning that takes a half, once and twice as long as the longest generation: without staleness against
           makespan + learning, with a staleness of 1 against the longer of the two
growth     groups a second with 1 to 256 engines and proportionally many prompts, each against as many times one engine's

A cohort is the prompts of one step in their order; its makespan is what the engines would need for it alone, from the drawn lengths (see
`World.makespan_s`). Nothing of the expectation is measured.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from types import SimpleNamespace
from typing import Any

import ray

from actors.errors import ConfigError
from actors.prompts.stream import PromptStream
from services.bench.results import Aim, Report, Row, Spread, device_name
from services.bench.simulated import EngineHandle, Engines, Learner, Questions, StepTimes, Verifier, World
from services.bench.surroundings import control_recipe, own_cluster, place
from services.config import Recipe
from services.telemetry.console import Console
from services.training.conductor import Conductor
from services.training.keeper import Keeper
from services.training.pool import Member, Pool
from services.training.pools import MAX_CONCURRENCY, replay_queue
from services.training.rundir import RunDirectory

OVERLAP_AIM, SUM_AIM, GROWTH_AIM = 1.05, 1.02, 0.9
ACTORS = 4
"""Processes that all simulated engines share."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What is simulated, and how often."""

    engines: int = 4  # of the overlap
    growth: tuple[int, ...] = (1, 4, 16, 64, 256)  # engines
    learning: tuple[float, ...] = (0.5, 1.0, 2.0)  # times the longest generation
    prompts: int = 8  # per engine and step, of the overlap
    growth_prompts: int = 2  # per engine and step, of the growth
    slots: int = 8  # groups that an engine works on at once
    responses: int = 8  # of a group
    longest_s: float = 10.0  # of a response at the cap; in the growth learning takes as long
    verify_s: float = 0.02
    steps: int = 5  # the first is not counted
    repeats: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 2:
            raise ConfigError("bench pipeline: the first step is not counted; --steps is at least 2")


@dataclass(frozen=True, slots=True)
class Case:
    """One run of the pipeline."""

    name: str
    world: World
    engines: int
    prompts: int  # of a step
    staleness: int
    steps: int

    @property
    def makespans_s(self) -> list[float]:
        """Of each counted step's cohort."""
        starts = range(self.prompts, self.steps * self.prompts, self.prompts)
        return [self.world.makespan_s(range(start, start + self.prompts), self.engines) for start in starts]

    @property
    def expected_s(self) -> float:
        """Seconds of a step: mean over the counted ones."""
        learn_s = self.world.learn_s
        return mean(max(makespan, learn_s) if self.staleness else makespan + learn_s for makespan in self.makespans_s)


@dataclass(frozen=True, slots=True)
class Ran:
    """What a case took."""

    case: Case
    step_s: float  # mean over the counted steps, publication to publication

    @property
    def over_expected(self) -> float:
        """1 where the pipeline costs nothing."""
        return self.step_s / self.case.expected_s

    @property
    def groups_per_s(self) -> float:
        """Trained."""
        return self.case.prompts / self.step_s


def run(settings: Settings) -> tuple[Report, list[Ran], list[Ran]]:
    """Run every case: the report, and the two panels of the plot (overlap, growth)."""
    with own_cluster():
        overlap = [drive(case) for _ in range(settings.repeats) for case in overlap_cases(settings)]
        growth = [drive(case) for case in growth_cases(settings)]
    return report(settings, overlap, growth), overlap, growth


def report(settings: Settings, overlap: Sequence[Ran], growth: Sequence[Ran]) -> Report:
    """Hold every case against what was expected of it."""
    found = {name: Spread.of([ran.over_expected for ran in overlap if ran.case.name == name]) for name in _names(overlap)}
    least = growth[0]
    for ran in growth[1:]:
        share = ran.groups_per_s / least.groups_per_s * least.case.engines / ran.case.engines
        found[f"growth over linear, {ran.case.name}"] = Spread.of([share])
    aims = [_aim(name, found) for name in found] if settings == Settings(repeats=settings.repeats) else []
    return Report(
        bench="pipeline",
        device=device_name("cpu"),
        settings=asdict(settings),
        rows=[_row(ran) for ran in (*overlap, *growth)],
        ratios=found,
        aims=aims,
        notes=[
            "learning N x: a step's learning takes N times as long as a response at the cap of the lengths",
            "expected: of each step the makespan of its cohort, from the drawn lengths, and learning; their sum without staleness, with a "
            "staleness of 1 the longer of the two; mean over all steps but the first",
            "ratios: seconds a step over expected; growth: groups per second over as many times those of the smallest pool",
        ],
    )


def _names(rans: Sequence[Ran]) -> list[str]:
    return list(dict.fromkeys(ran.case.name for ran in rans))


def _aim(name: str, found: Mapping[str, Spread]) -> Aim:
    if name.startswith("growth"):
        return Aim.at_least(name, GROWTH_AIM, found[name])
    return Aim.at_most(name, SUM_AIM if name.endswith("staleness 0") else OVERLAP_AIM, found[name])


def _row(ran: Ran) -> Row:
    case = ran.case
    return {
        "case": case.name,
        "engines": case.engines,
        "prompts": case.prompts,
        "makespan_s": mean(case.makespans_s),
        "learning_s": case.world.learn_s,
        "expected_s": case.expected_s,
        "step_s": ran.step_s,
        "groups_per_s": ran.groups_per_s,
    }


def overlap_cases(settings: Settings) -> list[Case]:
    """Each proportion of learning without and with staleness."""
    return [
        Case(
            name=f"learning {times:g} x, staleness {staleness}",
            world=_world(settings, settings.longest_s, times * settings.longest_s),
            engines=settings.engines,
            prompts=settings.prompts * settings.engines,
            staleness=staleness,
            steps=settings.steps,
        )
        for times in settings.learning
        for staleness in (0, 1)
    ]


def growth_cases(settings: Settings) -> list[Case]:
    """Each number of engines, with a staleness of 1. Learning takes as long as the longest response, so that the longer tails of larger
    cohorts, which are no fault of the pipeline, do not show."""
    longest_s = settings.longest_s
    return [
        Case(
            name=f"{engines} engines",
            world=_world(settings, longest_s, longest_s),
            engines=engines,
            prompts=settings.growth_prompts * engines,
            staleness=1,
            steps=settings.steps,
        )
        for engines in settings.growth
    ]


def _world(settings: Settings, longest_s: float, learn_s: float) -> World:
    return World(settings.seed, settings.responses, settings.slots, longest_s, settings.verify_s, learn_s)


def drive(case: Case) -> Ran:
    """Run one case to its end."""
    shared = [place(Engines, case.world, concurrency=MAX_CONCURRENCY) for _ in range(min(ACTORS, case.engines))]
    others = [place(kind, case.world, concurrency=MAX_CONCURRENCY) for kind in (Verifier, Learner)]
    try:
        with tempfile.TemporaryDirectory(prefix="gmpo-bench-") as directory:
            recipe = control_recipe(
                Path(directory),
                steps=case.steps,
                prompts_per_step=case.prompts,
                max_staleness=case.staleness,
                group_size=case.world.responses,
                engines=case.engines,
            )
            seconds = asyncio.run(_conduct(recipe, shared, *others))
    finally:
        for actor in (*shared, *others):
            ray.kill(actor)
    return Ran(case, mean(seconds[1:]))


async def _conduct(recipe: Recipe, shared: Sequence[Any], verifier: Any, learner: Any) -> list[float]:
    """Seconds of each step."""
    run, keeper, times = RunDirectory(recipe), Keeper(), StepTimes()
    handles = [EngineHandle(shared[engine % len(shared)], engine) for engine in range(recipe.generation.engines)]
    generation, reward = Pool(handles, wake=_awake), Pool([verifier], wake=_awake)
    await asyncio.gather(generation.start(), reward.start())

    async def watch() -> None:
        await asyncio.gather(*(pool.watch(every_s=recipe.health.every_s) for pool in (generation, reward)))

    pools: Any = SimpleNamespace(generation=generation, reward=reward, reference=Pool((), wake=_awake), watch=watch)
    sinks: Any = times
    queue = replay_queue(recipe, run, [], 0)
    await queue.begin_with.remote(keeper.belongings())
    conductor = Conductor(recipe, PromptStream(Questions()), pools, queue, keeper, run, Console(), sinks, step=0)
    learning = asyncio.ensure_future(learner.learn.remote(queue, shared))
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_finish(learning))  # where it fails, the conductor need not wait
        await conductor.run()
    await queue.close.remote()
    return times.seconds


async def _awake(member: Member) -> None:
    """There is nothing to wake."""


async def _finish(call: asyncio.Future[None]) -> None:
    await call
