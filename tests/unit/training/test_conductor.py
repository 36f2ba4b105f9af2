"""The conductor over a real queue and pools that answer at once: which prompts it admits, when, and what becomes of those dropped."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import random
import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import ray

from actors.errors import DataError, EngineError, GmpoError, QueueClosed, StaleAttempt
from actors.learner.advantages import build
from actors.prompts.prepare import Prepared
from actors.prompts.stream import PromptStream
from actors.reference.scorer import Scored
from actors.replay.freeze import FrozenStep
from actors.replay.messages import QueueSpec, Snapshot
from actors.replay.queue import ReplayQueue
from actors.replay.standing import Claim
from actors.types import GroupMeta, Outcome, Prompt, Resync, StepResult, Stop, Work
from services.telemetry.console import Console
from services.telemetry.metrics import declared
from services.training import conductor
from services.training.conductor import Conductor
from services.training.evaluation import Evaluation
from services.training.failures import cause
from services.training.keeper import Keeper
from services.training.pool import Pool
from tests.unit.recipes import tiny_recipe
from tests.unit.training.handles import Handle

R, W = Outcome.RIGHT, Outcome.WRONG
SMALL = (
    "run.steps=3",
    "run.prompts_per_step=4",
    "run.record_share=0",
    "generation.group_size=2",
    "learner.updates_per_step=1",
    "prompts.held_out=0",
    "reference.enabled=false",
)
SYNCHRONOUS, AHEAD = "replay.max_staleness=0", "replay.max_staleness=1"
EXACT = ("replay.max_staleness=2", "replay.exact_staleness=true", "run.steps=6")
FILTERING = "replay.dynamic_sampling=true"


@dataclass(eq=False)
class Group:
    """A payload."""

    ordinal: int


@dataclass
class World:
    """Pools of one actor each. Prompts in `alike` earn the same reward with every response; `arrivals` shuffles who comes back when."""

    alike: Callable[[int], bool] = lambda ordinal: False
    arrivals: random.Random = field(default_factory=lambda: random.Random(0))
    version: int = 0
    under_way: int = 0
    most_under_way: int = 0
    interrupted: int = 0  # prompts under way as another version came
    calls: list[tuple[str, int]] = field(default_factory=list)
    loses: set[int] = field(default_factory=set)  # by ordinal: the learner finds its group gone, once
    hooks: dict[int, Callable[..., Any]] = field(default_factory=dict)  # by ordinal, called as its generation begins
    recording: Exception | None = None  # what happens to whoever records
    payloads: weakref.WeakSet[Group] = field(default_factory=weakref.WeakSet)
    held_out: Sequence[Prepared] = ()
    log: Log | None = None  # of the present driver

    def take(self, version: int) -> None:
        self.version = version
        self.interrupted += self.under_way

    async def hold(self) -> None:
        self.calls.append(("hold", 0))

    async def release(self, responses: int) -> None:
        self.calls.append(("release", responses))

    async def generate(self, prompt: Prompt, seed: int, sampling: None) -> tuple[GroupMeta, Group]:
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        if hook := self.hooks.get(prompt.ordinal):
            await hook()
        group, version = Group(prompt.ordinal), self.version
        self.payloads.add(group)
        for _ in range(self.arrivals.randrange(9)):
            await asyncio.sleep(0)
        self.under_way -= 1
        return GroupMeta(prompt.ordinal, (version, version), (1, 1)), group

    async def verify(self, group: Group) -> tuple[GroupMeta, Group]:
        scores, outcomes = ((1.0, 1.0), (R, R)) if self.alike(group.ordinal) else ((1.0, 0.0), (R, W))
        return GroupMeta(group.ordinal, (self.version, self.version), (1, 1), scores, outcomes), group

    async def record(self, directory: Path, frozen: FrozenStep, *groups: Group) -> None:
        if self.recording:
            raise self.recording

    async def score(self, group: Group) -> tuple[Scored, Group]:
        return Scored(0.5, (float(group.ordinal), 0.0)), group


class Order:
    epoch_size = None

    def nth(self, ordinal: int) -> Prompt:
        return Prompt(ordinal, "math", np.zeros(1, dtype=np.int32), "1", "", "")


class Log:
    """Sinks that keep what they are told, and refuse what nobody declared."""

    def __init__(self) -> None:
        self.steps: list[Mapping[str, float]] = []
        self.present: dict[str, float] = {}

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        assert all(declared(name) for name in metrics)
        self.steps.append(metrics)

    def observe(self, metrics: Mapping[str, float]) -> None:
        assert all(declared(name).kind == "gauge" for name in metrics)
        self.present |= metrics


@dataclass
class Run:
    """One driver's life: what it logged, what the queue counted, the history it wrote."""

    metrics: list[Mapping[str, float]]
    account: dict[str, int]
    trained: list[tuple[int, ...]]
    history: Path
    conductor: Conductor

    def told(self, event: str) -> list[list[int]]:
        """The ordinals of every such event, in order."""
        lines = [json.loads(line) for line in self.history.read_text().splitlines()]
        return [line["ordinals"] for line in lines if line["event"] == event]


async def learn(queue: ReplayQueue, world: World, trained: list[tuple[int, ...]]) -> None:
    """A learner group of one rank, until it is told to stop; where another group fences it, a new one."""
    while True:
        with contextlib.suppress(StaleAttempt):
            return await follow(queue, world, trained)


async def follow(queue: ReplayQueue, world: World, trained: list[tuple[int, ...]]) -> None:
    """One learner group's life."""
    attempt, step = await queue.begin()
    turn = 0
    while not isinstance(assignment := await queue.claim(turn, step + 1, 0, 1, attempt), Stop):
        turn += 1
        if isinstance(assignment, Resync):
            world.take(step)
            await queue.confirm(assignment.epoch, step, "digest", attempt)
        if isinstance(assignment, Work) and (gone := world.loses & set(assignment.ordinals)):
            world.loses -= gone
            await queue.lost(assignment.step, sorted(gone), attempt)
        elif isinstance(assignment, Work):
            step = assignment.step
            world.take(step)
            trained.append(assignment.ordinals)
            await queue.ack(StepResult(step, {}), "digest", attempt)


async def drive(
    tmp_path: Path,
    world: World,
    *overrides: str,
    step: int = 0,
    snapshot: Sequence[Sequence[Any]] = (),
    keeper: Keeper | None = None,
    name: str = "ledger.jsonl",
    told: Mapping[str, Any] | None = None,
) -> Run:
    """The run of a recipe from `step` to its end; what the conductor raises. `told`: where an earlier driver did not tell of all steps."""
    keeper = keeper or Keeper()
    recipe = tiny_recipe(*SMALL, *overrides)
    spec = QueueSpec(
        session=name,
        stale_after_s=60,
        prompts_per_step=recipe.run.prompts_per_step,
        updates_per_step=recipe.learner.updates_per_step,
        max_staleness=recipe.replay.max_staleness,
        capacity=recipe.outstanding,
        steps=recipe.run.steps,
        seed=0,
        skip_zero_advantage=False,
        dynamic_sampling=recipe.replay.dynamic_sampling,
        advantages=build(recipe.learner.advantage, recipe.learner.kl),
        history=tmp_path / name,
        exact_staleness=recipe.replay.exact_staleness,
    )
    queue, log, trained = ReplayQueue(spec, snapshot, step), Log(), list[tuple[int, ...]]()
    world.log = log
    world.hooks = {ordinal: (lambda hook=hook: hook(queue)) for ordinal, hook in world.hooks.items()}
    pool, nobody = _pool(Handle(world)), _pool()
    pools: Any = SimpleNamespace(
        generation=pool,
        reward=pool,
        reference=pool if recipe.reference.enabled else nobody,
        recorder=Handle(world),
        watch=lambda: asyncio.sleep(3600),
    )
    told = told or {"metrics": tmp_path / "none", "history": tmp_path / "none", "evaluated": set(range(1, step + 1))}
    run = SimpleNamespace(append_evaluation=lambda row: None, rollouts=tmp_path, **told)
    stream = PromptStream(Order(), held_out=world.held_out)
    driver = Conductor(recipe, stream, pools, Handle(queue), keeper, run, Console(), log, step=step)  # type: ignore[arg-type]
    await queue.begin_with(keeper.belongings())
    sides = [asyncio.ensure_future(side) for side in (driver.run(), learn(queue, world, trained))]
    await asyncio.wait(sides, return_when=asyncio.FIRST_COMPLETED)
    await queue.close()
    await asyncio.gather(*sides)
    return Run(log.steps, queue.account(), trained, spec.history, driver)


@pytest.fixture(autouse=True)
def _cancels_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """References are futures here."""
    monkeypatch.setattr(ray, "cancel", lambda call: call.cancel())
    monkeypatch.setattr(conductor, "store_used", lambda: 0.0)


def _pool(*handles: Any) -> Pool:
    """A pool that is up."""
    pool = Pool(handles, wake=lambda member: asyncio.sleep(0))
    for member in pool.members:
        member.up = True
    return pool


def graded(ordinal: int, version: int) -> GroupMeta:
    return GroupMeta(ordinal, (version, version), (1, 1), (1.0, 0.0), (R, W))


def every_third(ordinal: int) -> bool:
    return ordinal % 3 == 0


# --- whoever is dropped is replaced ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [SYNCHRONOUS, AHEAD])
async def test_a_run_admits_exactly_what_it_trains(tmp_path: Path, mode: str) -> None:
    world = World()
    run = await drive(tmp_path, world, mode)
    assert sorted(ordinal for step in run.trained for ordinal in step) == list(range(12))
    assert sum(run.account.values()) == run.account["trained"] == 12
    assert world.most_under_way <= (4 if mode == SYNCHRONOUS else 8)


@pytest.mark.parametrize("mode", [SYNCHRONOUS, AHEAD])
@pytest.mark.parametrize("arrivals", range(3))
async def test_every_step_is_full_of_groups_with_something_to_compare(tmp_path: Path, mode: str, arrivals: int) -> None:
    world = World(every_third, random.Random(arrivals))
    run = await drive(tmp_path, world, mode, FILTERING)
    assert [len(step) for step in run.trained] == [4, 4, 4]
    assert not any(every_third(ordinal) for step in run.trained for ordinal in step)
    assert run.account == {**dict.fromkeys(run.account, 0), "trained": 12, "dropped": run.account["dropped"]}
    assert sum(metrics["reward/filtered_groups"] for metrics in run.metrics) == run.account["dropped"] >= 6
    assert all(metrics["reward/zero_advantage_groups"] == 0 for metrics in run.metrics)
    assert world.most_under_way <= (4 if mode == SYNCHRONOUS else 8)
    assert max(metrics["staleness/max"] for metrics in run.metrics) <= (0 if mode == SYNCHRONOUS else 1)


@pytest.mark.parametrize("mode", [SYNCHRONOUS, AHEAD])
async def test_nothing_holds_on_to_a_dropped_group(tmp_path: Path, mode: str) -> None:
    world = World(every_third)
    run = await drive(tmp_path, world, mode, FILTERING)
    gc.collect()
    assert run.account["dropped"] and run.conductor.step == 3
    assert sorted(group.ordinal for group in world.payloads) == sorted(ordinal for step in run.trained for ordinal in step)


@pytest.mark.parametrize("mode", [SYNCHRONOUS, AHEAD])
@pytest.mark.parametrize("step", [1, 3])
async def test_a_lost_group_whose_prompt_is_dropped_then_is_replaced_as_well(tmp_path: Path, mode: str, step: int) -> None:
    lost, seen = 4 * step - 3, Counter[int]()

    def alike(ordinal: int) -> bool:
        seen[ordinal] += 1
        return ordinal == lost and seen[ordinal] > 1

    run = await drive(tmp_path, World(alike, loses={lost}), mode, FILTERING)
    assert [len(ordinals) for ordinals in run.trained] == [4, 4, 4]
    assert run.account["dropped"] == 1 and not any(lost in ordinals for ordinals in run.trained)


async def test_a_rollout_that_cannot_be_written_ends_the_run_though_nothing_is_published_after_it(tmp_path: Path) -> None:
    world = World()
    world.recording = DataError("no space left")
    with pytest.raises(DataError, match="no space left"):
        await drive(tmp_path, world, AHEAD, "run.steps=1", "run.record_share=1")


# --- synchronous runs are the same every time ------------------------------------------------------------------------------------

ALIKE = {1, 2, 5, 9}
WAVES = [[0, 1, 2, 3], [4, 5], [6], [7, 8, 9, 10], [11], [12, 13, 14, 15]]
STEPS = [(0, 3, 4, 6), (7, 8, 10, 11), (12, 13, 14, 15)]


@pytest.mark.parametrize("arrivals", range(5))
async def test_a_synchronous_step_is_filled_in_waves_whoever_arrives_first(tmp_path: Path, arrivals: int) -> None:
    world = World(ALIKE.__contains__, random.Random(arrivals))
    run = await drive(tmp_path, world, SYNCHRONOUS, FILTERING)
    assert run.told("admitted") == WAVES and run.trained == STEPS
    assert [metrics["reward/filtered_groups"] for metrics in run.metrics] == [3, 1, 0]
    assert [metrics["ledger/dropped"] for metrics in run.metrics] == [3, 4, 4]


async def test_the_engines_start_on_each_wave_together(tmp_path: Path) -> None:
    world = World(ALIKE.__contains__)
    await drive(tmp_path, world, SYNCHRONOUS, FILTERING)
    assert world.calls == [call for wave in WAVES for call in (("hold", 0), ("release", 2 * len(wave)))]


async def test_a_synchronous_run_that_was_broken_within_a_step_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    """The checkpoint of step 1 is written while its successor is gathered: 9 has been filtered, and 11 is on its way."""
    snapshots: list[list[list[Any]]] = []

    async def save(queue: ReplayQueue) -> None:
        assert queue.account()["dropped"] == 4
        snapshots.append(json.loads(json.dumps((await queue.snapshot(1)).ledger)))

    whole = await drive(tmp_path, World(ALIKE.__contains__, hooks={11: save}), SYNCHRONOUS, FILTERING)
    rest = await drive(tmp_path, World(ALIKE.__contains__), SYNCHRONOUS, FILTERING, step=1, snapshot=snapshots[0], name="later.jsonl")
    assert rest.told("admitted") == WAVES[3:] and rest.trained == STEPS[1:]
    assert rest.account == whole.account
    told = ("reward/filtered_groups", "ledger/dropped", "ledger/trained")
    assert [[line[name] for name in told] for line in rest.metrics] == [[line[name] for name in told] for line in whole.metrics[1:]]


# --- every group as old as the bound ----------------------------------------------------------------------------------------------

OLD_WAVES = [[0, 1, 2, 3], [4, 5], [6], [7, 8, 9, 10], [11], *([first, first + 1, first + 2, first + 3] for first in (12, 16, 20, 24))]
OLD_STEPS = [*STEPS, *((first, first + 1, first + 2, first + 3) for first in (16, 20, 24))]
AGES = [0, 1, 2, 2, 2, 2]


def ages(run: Run) -> list[tuple[float, float]]:
    return [(metrics["staleness/mean"], metrics["staleness/max"]) for metrics in run.metrics]


@pytest.mark.parametrize("arrivals", range(5))
async def test_each_step_trains_on_groups_of_exactly_the_bound_whoever_arrives_first(tmp_path: Path, arrivals: int) -> None:
    world = World(ALIKE.__contains__, random.Random(arrivals))
    run = await drive(tmp_path, world, *EXACT, FILTERING)
    assert run.told("admitted") == OLD_WAVES and run.trained == OLD_STEPS
    assert ages(run) == [(age, age) for age in AGES]
    assert world.calls == [call for wave in OLD_WAVES for call in (("hold", 0), ("release", 2 * len(wave)))]


async def test_an_exact_bound_of_none_is_a_synchronous_run(tmp_path: Path) -> None:
    run = await drive(tmp_path, World(ALIKE.__contains__), *EXACT, SYNCHRONOUS, "run.steps=3", FILTERING)
    assert run.told("admitted") == WAVES and run.trained == STEPS


async def test_a_full_store_does_not_keep_back_what_a_step_waits_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conductor, "store_used", lambda: 1.0)
    run = await drive(tmp_path, World(), *EXACT)
    assert ages(run) == [(age, age) for age in AGES]


async def test_held_out_questions_are_asked_while_nothing_else_is_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world, asked = World(held_out=[Prepared(Order().nth(0), b"")]), []

    async def evaluate(*arguments: Any) -> Evaluation:
        for _ in range(50):  # time for the learner to go on
            assert world.under_way == 0
            await asyncio.sleep(0)
        asked.append((arguments[-1], world.version))
        return Evaluation(arguments[-1], 0.5, 0.5, 1, [])

    monkeypatch.setattr(conductor, "evaluate", evaluate)
    run = await drive(tmp_path, world, *EXACT, "evaluation.every=1")
    assert asked == [(step, step) for step in (0, 1, 2, 3, 6)]  # after step 3 nothing is left to sample, and learning goes on meanwhile
    assert ages(run) == [(age, age) for age in AGES]


@pytest.mark.parametrize("at", [16, 17, 20, 24])
async def test_a_learner_group_that_goes_back_lets_the_engines_finish_with_the_version_they_have(tmp_path: Path, at: int) -> None:
    """It dies while a step's first prompts are under way, or those that replace dropped ones, and begins again from step 0."""

    async def fence(queue: ReplayQueue) -> None:
        await queue.begin()
        for _ in range(50):  # time for the learner group to come back
            await asyncio.sleep(0)

    alike = {1, 18, 19}.__contains__
    whole = await drive(tmp_path, World(alike), *EXACT, FILTERING)
    world = World(alike, random.Random(1), hooks={at: fence})
    again = await drive(tmp_path, world, *EXACT, FILTERING, name="again.jsonl")
    assert world.interrupted == 0
    assert len(again.trained) > len(whole.trained), "the group went back"
    assert list(dict.fromkeys(again.trained)) == whole.trained
    assert again.told("admitted") == whole.told("admitted") and ages(again) == ages(whole)


async def test_a_lost_group_comes_back_younger_and_the_ages_are_exact_again_once_it_is_trained(tmp_path: Path) -> None:
    run = await drive(tmp_path, World(loses={13}), *EXACT, "run.steps=9")
    assert [len(step) for step in run.trained] == [4] * 9
    assert sorted(ordinal for step in run.trained for ordinal in step) == list(range(36))
    assert ages(run) == [(0, 0), (1, 1), (2, 2), (1.75, 2), (1.75, 2), (2, 2), (2, 2), (2, 2), (2, 2)]


@pytest.mark.parametrize("seen", [12, 14, 15])
async def test_an_exact_run_that_was_broken_goes_on_as_if_it_had_not_been(tmp_path: Path, seen: int) -> None:
    """The checkpoint of step 1 is written while its successor's prompts come in: some are ready, some under way."""
    left: list[Snapshot] = []

    async def save(queue: ReplayQueue) -> None:
        while queue.metrics()["queue/depth"] < 9:
            await asyncio.sleep(0)
        left.append(await queue.snapshot(1))

    whole = await drive(tmp_path, World(arrivals=random.Random(seen), hooks={seen: save}), *EXACT)
    groups, ledger = {held[0].ordinal: held for held in left[0].ready}, json.loads(json.dumps(left[0].ledger))
    rest = await drive(tmp_path, World(), *EXACT, step=1, snapshot=ledger, keeper=Keeper(groups), name="later.jsonl")
    assert sorted(groups) == list(range(4, 12)), "what version 1 samples is sampled again, all of it"
    assert rest.told("admitted") == whole.told("admitted")[3:] and rest.trained == whole.trained[1:]
    assert ages(rest) == ages(whole)[1:]


@pytest.mark.parametrize("reached", [2, 3, 5])
async def test_steps_recorded_beyond_the_checkpoint_wait_for_what_their_versions_have_to_sample(tmp_path: Path, reached: int) -> None:
    """The driver died after step `reached`, and its only checkpoint is of step 1."""
    batches = [tuple(range(first, first + 4)) for first in range(0, 24, 4)]
    kept = {ordinal: (graded(ordinal, max(0, ordinal // 4 - 2)), [Group(ordinal)]) for ordinal in range(4, 4 * max(3, reached))}
    recorded = {step: Claim(batches[step - 1], 0) for step in range(2, reached + 1)}
    ledger = [[ordinal, "trained", 1, None] for ordinal in range(4)] + [[ordinal, "ready", None, None] for ordinal in range(4, 12)]
    run = await drive(tmp_path, World(), *EXACT, step=1, snapshot=ledger, keeper=Keeper(kept, recorded))
    assert run.trained == batches[1:] and ages(run) == [(age, age) for age in AGES[1:]]
    assert [wave for wave in run.told("admitted") if len(wave) > 1] == [list(batch) for batch in batches[max(3, reached) :]]


# --- where there is nothing to learn ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [SYNCHRONOUS, AHEAD])
async def test_too_many_dropped_in_a_row_end_the_run_in_good_order(tmp_path: Path, mode: str) -> None:
    world = World(lambda ordinal: ordinal >= 6)
    with pytest.raises(
        GmpoError, match=r"nothing to learn after step 1: 20 groups in a row .* \(mean 1\.00; 0 of 40 responses not graded\)"
    ):
        await drive(tmp_path, world, mode, FILTERING, "replay.max_filtered=20")
    lines = [json.loads(line) for line in (tmp_path / "ledger.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["event"] == "trained"] == [1]


async def test_one_kept_group_starts_the_count_anew(tmp_path: Path) -> None:
    run = await drive(tmp_path, World(lambda ordinal: ordinal % 4 != 0), AHEAD, FILTERING, "replay.max_filtered=20")
    assert len(run.trained) == 3 and run.account["dropped"] > 20


def test_what_is_raised_is_what_went_wrong_and_no_bundle_of_errors() -> None:
    inner = ExceptionGroup("of a pool", [EngineError("no engine can be built")])
    assert str(cause(ExceptionGroup("", [QueueClosed("closed"), inner]))) == "no engine can be built"
    assert isinstance(cause(ExceptionGroup("", [QueueClosed("closed")])), QueueClosed)


# --- what is seen between two steps ----------------------------------------------------------------------------------------------


async def test_a_driver_tells_first_what_the_one_before_it_was_cut_before_telling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world, asked = World(held_out=[Prepared(Order().nth(0), b"")]), []

    async def evaluate(*arguments: Any) -> Evaluation:
        assert world.log
        asked.append((arguments[-1], len(world.log.steps)))
        return Evaluation(arguments[-1], 0.5, 0.25, 1, [])

    monkeypatch.setattr(conductor, "evaluate", evaluate)
    history, log = tmp_path / "earlier.jsonl", tmp_path / "metrics.jsonl"
    published = [{"time": 0.0, "event": "published", "version": step, "metrics": {"reward/mean": step / 10}} for step in (1, 2)]
    history.write_text("".join(json.dumps(event) + "\n" for event in published))
    log.write_text(json.dumps({"step": 1}) + "\n")
    left = {"metrics": log, "history": history, "evaluated": {0, 1}}  # cut between the checkpoint of step 2 and its metrics
    run = await drive(tmp_path, world, SYNCHRONOUS, "evaluation.every=1", step=2, told=left)
    assert asked == [(2, 0), (3, 1)]
    assert run.metrics[0] == {"reward/mean": 0.2, "eval/sampled": 0.5, "eval/greedy": 0.25}
    assert len(run.metrics) == 2 and len(run.trained) == 1


async def test_the_page_tells_while_held_out_questions_are_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world, told = World(held_out=[Prepared(Order().nth(0), b"")]), []

    async def evaluate(*asked: Any) -> Evaluation:
        assert world.log
        told.append((asked[-1], world.log.present["eval/running"]))
        world.log.present["step/began"] = 0.0
        return Evaluation(asked[-1], 0.5, 0.5, 1, [])

    monkeypatch.setattr(conductor, "evaluate", evaluate)
    await drive(tmp_path, world, SYNCHRONOUS)
    assert told == [(0, 1.0), (3, 1.0)]
    assert world.log and world.log.present["eval/running"] == 0.0
    assert world.log.present["step/began"] > 0, "the time of the questions is not the step's"


# --- what the reference says -----------------------------------------------------------------------------------------------------


async def test_the_rewards_pay_for_what_the_reference_pool_measured(tmp_path: Path) -> None:
    options = ("reference.enabled=true", "learner.kl={coefficient: 0.5, place: reward}", "learner.advantage={type: mean}", "run.steps=1")
    run = await drive(tmp_path, World(), SYNCHRONOUS, *options)
    assert run.metrics[0]["reward/kl"] == pytest.approx(np.mean([0, 0, 1, 0, 2, 0, 3, 0]))
    assert run.metrics[0]["reward/mean"] == 0.5
    assert run.metrics[0]["reward/zero_advantage_groups"] == 1  # group 2: its right response moved by exactly the reward
