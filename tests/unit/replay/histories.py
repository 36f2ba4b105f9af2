"""Histories as a run writes them, of a model of the run that is small enough to be seen right."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np

from actors.records import record_path, write_groups
from actors.replay.standing import Standing
from actors.types import GroupMeta, Prompt, Rollout, RolloutGroup

PROMPTS, STALENESS = 2, 1
STAGES = ["generated", "verified"]


class ModelRun:
    """A run of two prompts a step and a staleness bound of 1; the caller says what happens next."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.events: list[dict[str, Any]] = []
        self.life = 0
        self.number = 0
        self.batches: dict[int, list[int]] = {}  # trained
        self.disk: dict[int, list[int]] = {}  # recorded when they were trained
        self.dropped: dict[int, int] = {}  # prompt -> the step that was next
        self.oldest: dict[int, int] = {}
        self.fresh = 0  # first prompt that was never admitted
        self.committed = 0
        self._begin("started")

    def write(self, event: str, **fields: Any) -> None:
        self.events.append({"event": event, **fields})

    # --- who is there ---------------------------------------------------------------------------------------------------------

    def _begin(self, how: str) -> None:
        self.life += 1
        self.write(how, session=f"driver {self.life}", step=self.committed)
        self.recorded = {step: batch for step, batch in self.disk.items() if step > self.committed}
        self.batches = {step: batch for step, batch in self.batches.items() if step <= self.committed}
        self.dropped = {ordinal: step for ordinal, step in self.dropped.items() if step <= self.committed}
        done = {ordinal for batch in self.batches.values() for ordinal in batch} | set(self.dropped)
        again = {ordinal for batch in self.recorded.values() for ordinal in batch}
        self.unissued = [ordinal for ordinal in range(self.fresh) if ordinal not in done | again]
        self.waiting: dict[int, int] = {}
        self.ready: set[int] = set()
        self.claimed: dict[int, list[int]] = {}
        self.trained, self.attempt = self.committed, 0
        for ordinal in sorted(again):
            self._ready(ordinal, self.oldest[ordinal])
        self.learner()

    def driver(self) -> None:
        """The driver died; another goes on from the checkpoint, or from the start."""
        self._begin("resumed" if self.committed else "started")

    def learner(self) -> None:
        """A learner group begins, joins the engines, and does again what no checkpoint covers."""
        self.attempt += 1
        self.turn = 0
        self.version = self.committed
        self.write("learner", attempt=self.attempt, step=self.committed)
        self._told("resync", epoch=self.life)
        self._publish(self.committed)
        for step in range(self.committed + 1, self.trained + 1):
            self._told("reclaimed", step=step)
            self._publish(step)
        if self.trained + 1 in self.claimed:
            self._told("reclaimed", step=self.trained + 1)

    def queue(self) -> None:
        """The queue's process died and was made again."""
        self.write("rebuilt", session=f"driver {self.life}")

    def engine(self) -> None:
        """An engine died during a publication; its successor joined."""
        self.write("engine_lost", engine=0, why="no heartbeat")
        self.write("unsynced", engine=0, phase="send", version=self.version, epoch=self.life, error="gone")
        self.write("engine_back", engine=0, why="")
        self._told("resync", epoch=self.life)
        self._publish(self.version)

    def _told(self, event: str, **fields: Any) -> None:
        self.turn += 1
        self.write(event, attempt=self.attempt, turn=self.turn, **fields)

    def _publish(self, version: int) -> None:
        self.number += 1
        self.version = version
        self.write("published", number=self.number, version=version, epoch=self.life, digest="")

    # --- prompts --------------------------------------------------------------------------------------------------------------

    def admit(self) -> None:
        """A place is filled, if one is free."""
        held = len(self.waiting) + len(self.ready) + PROMPTS * (len(self.claimed) + self.trained)
        if held < PROMPTS * min(self.steps, self.trained + STALENESS + 1):
            self._admit(self.unissued.pop(0) if self.unissued else self.fresh)

    def _admit(self, ordinal: int) -> None:
        self.fresh = max(self.fresh, ordinal + 1)
        self.waiting[ordinal] = self.version
        self.write("admitted", ordinals=[ordinal], version=self.version)

    def arrive(self, chance: random.Random) -> None:
        """A prompt comes through the pools."""
        if self.waiting:
            ordinal = chance.choice(list(self.waiting))
            self._ready(ordinal, self.waiting.pop(ordinal))

    def _ready(self, ordinal: int, oldest: int) -> None:
        self.oldest[ordinal] = oldest
        self.ready.add(ordinal)
        self.write("ready", ordinals=[ordinal], stages=STAGES, versions=[oldest, self.version if self.attempt else oldest], seconds={})

    def drop(self, chance: random.Random) -> None:
        """A prompt is given up."""
        if self.waiting:
            ordinal = chance.choice(list(self.waiting))
            del self.waiting[ordinal]
            self.dropped[ordinal] = self.version + 1
            reason = chance.choice(["stale", "poisoned", "masked", "filtered"])
            self.write("dropped", ordinals=[ordinal], reason=reason, step=self.version + 1)

    # --- steps ----------------------------------------------------------------------------------------------------------------

    def claim(self) -> None:
        """The next step is frozen, if it can be: as it was recorded, or of the oldest groups."""
        step = self.trained + 1
        free = sorted(self.ready - {ordinal for batch in self.recorded.values() for ordinal in batch}, key=lambda o: (self.oldest[o], o))
        batch = self.recorded.pop(step, None) or free[:PROMPTS]
        younger = min(self.waiting.values(), default=step) >= max((self.oldest[ordinal] for ordinal in batch), default=0)
        if step not in self.claimed and len(batch) == PROMPTS and younger:
            self.claimed[step] = sorted(batch)
            self.ready -= set(batch)
            self._told("claimed", ordinals=sorted(batch), step=step, filtered=0)

    def lose(self) -> None:
        """A group of the claimed step is gone: the step is broken up."""
        for step, batch in self.claimed.items():
            self.write("unclaimed", ordinals=batch, step=step)
            self.write("forgotten", step=step)  # later ones would hold the places that this step needs
            self.disk = {earlier: kept for earlier, kept in self.disk.items() if earlier < step}
            self.recorded = {}
            self.ready |= set(batch[1:])
            self._admit(batch[0])
        self.claimed = {}

    def train(self, *, commit: bool) -> None:
        """The claimed step is trained and published, and maybe covered by a checkpoint."""
        for step, batch in self.claimed.items():
            self.trained = step
            self.batches[step] = self.disk[step] = batch
            self.write("trained", ordinals=batch, step=step, digest="")
            self._publish(step)
            if commit:
                self.committed = step
                self.write("committed", step=step)
        self.claimed = {}

    def close(self) -> None:
        """The driver leaves in good order."""
        self.write("stopping", reason="all steps done")
        self.write("closed", account=Standing.of(self.events).ledger.account())


def plain_history(steps: int = 3) -> list[dict[str, Any]]:
    """A run to which nothing happened; its last two steps are not covered by a checkpoint."""
    run, chance = ModelRun(steps), random.Random(0)
    for step in range(1, steps + 1):
        for _ in range(PROMPTS):
            run.admit()
            run.arrive(chance)
        run.claim()
        run.train(commit=step == 1)
    run.close()
    return run.events


def random_history(seed: int, steps: int = 8) -> list[dict[str, Any]]:
    """A run to which everything happens, until its last step."""
    run, chance = ModelRun(steps), random.Random(seed)
    for _ in range(2_000 * steps):
        if run.trained == steps:
            run.close()
            return run.events
        usual = [run.admit, lambda: run.arrive(chance), run.claim, lambda: run.train(commit=chance.random() < 0.4)]
        faults = [lambda: run.drop(chance), run.lose, run.learner, run.driver, run.queue, run.engine]
        chance.choices([*usual, *faults], weights=[30, 30, 20, 20, 2, 2, 1, 1, 1, 1])[0]()
    raise AssertionError(f"the model of seed {seed} stands still")


def record(rollouts: Path, step: int, *ordinals: int) -> Path:
    """The file of a step's groups, of two empty responses each."""
    empty = np.empty(0, np.int32)
    rollout = Rollout(empty, empty.astype(np.float32), empty.astype(np.bool_), (), "stop", "")
    groups = [RolloutGroup(Prompt(ordinal, "math", empty, "", "", ""), (rollout, rollout)) for ordinal in ordinals]
    path = record_path(rollouts, step)
    write_groups(path, groups, [GroupMeta(ordinal, (0, 0), (0, 0)) for ordinal in ordinals], step=step)
    return path
