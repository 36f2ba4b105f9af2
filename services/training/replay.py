"""Training again from what a run recorded: the same learner group, queue and checkpoints, and no engine, verifier or reference.

    rollouts/step-N.parquet ──► replay queue ──► learner group ──► digest of the weights

With the run's own objective every step must end with the weights that the run had; its ledger holds their digests. Another objective
learns from the same responses and ends elsewhere. A replay is a run directory of its own, `<run>/replays/<name>`.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import yaml

from actors.errors import ConfigError
from actors.learner.agenda import OneRun
from actors.records import Recorded, read_groups, records
from actors.replay.history import read
from actors.replay.ledger import State
from actors.replay.messages import Arrival
from actors.weights.version import version_path
from services import cluster, placement
from services.config import Recipe, load_recipe, parse_recipe, resolved
from services.telemetry.sinks import Sinks, open_sinks
from services.training import learner_group
from services.training.guard import Guard
from services.training.keeper import Keeper
from services.training.pools import replay_queue
from services.training.rundir import LEDGER, RunDirectory, recipe_of

OWN = "again"
"""Name of a replay with the run's own objective."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """What came of it."""

    path: Path
    steps: int
    compared: int  # steps whose digests both histories hold; 0 for another objective
    differs_at: int | None  # the first step that ended with other weights than the run's

    @property
    def verdict(self) -> str:
        """In a line."""
        what = f"{self.steps} steps trained again: {self.path}"
        if not self.compared:
            return what
        if self.differs_at is None:
            return f"{what}; the weights of all {self.compared} are the run's"
        return f"{what}; from step {self.differs_at} on the weights are not the run's"


def wanted(texts: Sequence[str]) -> list[Mapping[str, Any] | None]:
    """The objectives that a person named, each by its type or as a mapping; the run's own (None) where nobody is named."""
    try:
        parsed = [yaml.safe_load(text) for text in texts]
    except yaml.YAMLError as error:
        raise ConfigError(f"not an objective: {' '.join(str(error).split())}") from None
    return [{"type": one} if isinstance(one, str) else one for one in parsed] or [None]


def replay(run_dir: Path, objective: Mapping[str, Any] | None, tell: Callable[[str], None]) -> Replayed:
    """Train again on all that `run_dir` recorded from step 1 on without a gap. ConfigError if there is nothing, or no such objective."""
    original = load_recipe(recipe_of(run_dir))
    batches = _gapless(records(run_dir / "rollouts"))
    if not batches:
        raise ConfigError(f"{run_dir}: the rollouts of step 1 are not recorded, so nothing can be trained again")
    recipe = _recipe(original, run_dir, objective)
    shutil.rmtree(recipe.run_dir, ignore_errors=True)
    run = RunDirectory(recipe)
    run.check()
    with contextlib.closing(run):
        run.open()
        with contextlib.closing(open_sinks(recipe.telemetry, run.path, recipe.run.name, resolved(recipe))) as sinks:
            cluster.connect(recipe.cluster, custom=placement.custom(recipe))
            try:
                asyncio.run(_drive(recipe, run, str(version_path(run_dir.absolute() / "policies", 0)), batches, sinks, tell))
            finally:
                ray.shutdown()
    ours, theirs = digests(run.path), digests(run_dir)
    common = sorted(ours.keys() & theirs.keys()) if objective is None else []
    return Replayed(run.path, len(ours), len(common), next((step for step in common if ours[step] != theirs[step]), None))


def digests(run_dir: Path) -> dict[int, str]:
    """Step -> digest of the weights it ended with, as the run's history last told."""
    return {event["step"]: event["digest"] for event in read(run_dir / LEDGER) if event["event"] == State.TRAINED}


def _gapless(found: Mapping[int, Path]) -> list[Path]:
    batches: list[Path] = []
    while (path := found.get(len(batches) + 1)) is not None:
        batches.append(path)
    return batches


def _recipe(original: Recipe, run_dir: Path, objective: Mapping[str, Any] | None) -> Recipe:
    """The recipe of the replay: the run's, with a place of its own, and no one to tell but a file."""
    tree = resolved(original)
    name = OWN if objective is None else "-".join(str(value) for value in objective.values())
    tree["run"] |= {
        "root": str(run_dir.absolute() / "replays"),
        "name": name,
        "storage": None,
    }  # as many steps as it had: schedules depend on them
    tree["telemetry"] |= {"trackers": [], "prometheus": {}}
    tree["replay"] |= {"dynamic_sampling": False, "exact_staleness": False}  # what was dropped is not recorded; one step is fed at a time
    if objective is not None:
        tree["learner"]["objective"] = dict(objective)
    return parse_recipe(tree)


async def _drive(recipe: Recipe, run: RunDirectory, model: str, batches: list[Path], sinks: Sinks, tell: Callable[[str], None]) -> None:
    queue, keeper = replay_queue(recipe, run, [], 0), Keeper()
    await queue.begin_with.remote(keeper.belongings())
    spec = learner_group.loop_spec(recipe, queue, run, model, transport="gloo")
    learning = asyncio.create_task(learner_group.run_group(recipe, OneRun(spec), run.storage, gpu=cluster.has_gpu(recipe.cluster)))
    feeding = asyncio.create_task(_feed(queue, keeper, batches, sinks, tell))
    guarding = asyncio.create_task(Guard(queue, keeper.belongings, recipe.health, tell).watch())
    try:
        await asyncio.wait({learning, feeding}, return_when=asyncio.FIRST_COMPLETED)
        if learning.done():
            learning.result()
        await feeding
        await learning
    finally:
        feeding.cancel()
        await queue.close.remote()
        guarding.cancel()
        queue.__ray_terminate__.options(max_task_retries=0).remote()


async def _feed(queue: Any, keeper: Keeper, batches: list[Path], sinks: Sinks, tell: Callable[[str], None]) -> None:
    """One step's groups at a time, so that the queue can choose no others."""
    for step, path in enumerate(batches, start=1):
        batch = read_groups(path)
        await queue.admit.remote([meta.ordinal for meta in batch.metas])
        for meta, group in zip(batch.metas, batch.groups, strict=True):
            keeper.keep(meta, ray.put(group))
        ordinals, stages = [meta.ordinal for meta in batch.metas], _stages(batch)
        held = zip(batch.metas, keeper.refs(ordinals), strict=True)
        await queue.put.remote([Arrival((meta, [ref]), stages) for meta, ref in held])
        published = await queue.next_published.remote(step - 1)
        if published is None:
            return
        keeper.settle(step, ordinals, committed=published.committed)
        sinks.log(step, published.result.metrics)
        tell(f"step {step}/{len(batches)}")
        await queue.recorded.remote(step)  # it lies with the run that is replayed
    await queue.stop.remote("all that was recorded is trained again")


def _stages(batch: Recorded) -> tuple[State, ...]:
    scored = all(group.ref_logprobs is not None for group in batch.groups)
    return (State.GENERATED, State.VERIFIED, *([State.SCORED] if scored else []))
