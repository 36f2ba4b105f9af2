"""The groups that the driver owns and the queue may still ask for: an object dies with its owner, so the driver keeps them all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray

from actors.errors import DataError
from actors.learner.checkpoint import READY
from actors.learner.checkpoint_store import Stored
from actors.records import Recorded, read_groups, record_path
from actors.replay.history import read
from actors.replay.ledger import State
from actors.replay.messages import Belongings
from actors.replay.standing import Claim
from actors.types import GroupMeta, Held


class Keeper:
    """{ordinal: (metadata, reference)}, from the end of the group's way until a checkpoint covers its step."""

    def __init__(self, groups: Mapping[int, Held] | None = None, recorded: Mapping[int, Claim] | None = None) -> None:
        self._groups: dict[int, Held] = dict(groups or {})
        self._recorded: dict[int, Claim] = dict(recorded or {})
        self._steps: dict[int, Sequence[int]] = {}  # published, not yet covered

    def __len__(self) -> int:
        return len(self._groups)

    def keep(self, meta: GroupMeta, ref: Any) -> None:
        """A group has come to the end of its way."""
        self._groups[meta.ordinal] = meta, [ref]

    def drop(self, ordinal: int) -> None:
        """It left the run."""
        self._groups.pop(ordinal, None)

    def refs(self, ordinals: Sequence[int]) -> list[Any]:
        """The references of a published step's groups."""
        return [self._groups[ordinal][1][0] for ordinal in ordinals]

    def settle(self, step: int, ordinals: Sequence[int], *, committed: int) -> None:
        """A step was published; let go of all that a checkpoint covers."""
        self._steps[step] = ordinals
        for done in [published for published in self._steps if published <= committed]:
            for ordinal in self._steps.pop(done):
                self.drop(ordinal)
            self._recorded.pop(done, None)

    def belongings(self, engines: Sequence[Any] = (), epoch: int = 0) -> Belongings:
        """For the queue."""
        return Belongings(dict(self._groups), dict(self._recorded), tuple(engines), epoch)


def restored(checkpoint: Stored | None, rollouts: Path, history: Path) -> Keeper:
    """What an earlier driver left: the ready groups of its last checkpoint, and the batches of the steps that it trained beyond it."""
    trained = _trained(history)
    if checkpoint is None:
        step, ready = 0, None
    else:
        step = checkpoint.step
        with checkpoint.local() as directory:
            ready = read_groups(directory / READY) if (directory / READY).exists() else None
    groups: dict[int, Held] = _put(ready) if ready else {}
    recorded = {}
    while (batch := _readable(record_path(rollouts, step + 1))) is not None:
        claim = Claim(tuple(meta.ordinal for meta in batch.metas), batch.filtered)
        step += 1
        if claim.ordinals != trained.get(step):
            break  # it was forgotten since, and not written again
        groups |= _put(batch)
        recorded[step] = claim
    return Keeper(groups, recorded)


def _trained(history: Path) -> dict[int, tuple[int, ...]]:
    """{step: the prompts it was trained on}, where no driver has said that they may be others the next time."""
    trained: dict[int, tuple[int, ...]] = {}
    for event in read(history):
        match event:
            case {"event": State.TRAINED, "step": step, "ordinals": ordinals}:
                trained[step] = tuple(ordinals)
            case {"event": "forgotten", "step": first}:
                trained = {step: ordinals for step, ordinals in trained.items() if step < first}
    return trained


def _put(batch: Recorded) -> dict[int, Held]:
    return {meta.ordinal: (meta, [ray.put(group)]) for meta, group in zip(batch.metas, batch.groups, strict=True)}


def _readable(path: Path) -> Recorded | None:
    """A recorded batch, if it was written and is whole."""
    try:
        return read_groups(path) if path.exists() else None
    except DataError:
        return None
