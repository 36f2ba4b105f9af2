"""What passes between the replay queue and those who call it: the driver, the conductor and the learner group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from actors.replay.freeze import Advantages, FrozenStep
from actors.replay.ledger import State
from actors.replay.standing import Claim
from actors.types import Held, StepResult


@dataclass(frozen=True, slots=True)
class QueueSpec:
    """What the queue must know of the run."""

    session: str  # names the driver's life
    prompts_per_step: int
    updates_per_step: int
    max_staleness: int
    capacity: int  # groups held ready; a further `put` waits
    stale_after_s: float  # how long groups at the bound may hold a step back
    steps: int  # the last step of the run
    seed: int
    skip_zero_advantage: bool
    dynamic_sampling: bool  # drop groups that have nothing to compare
    advantages: Advantages
    history: Path  # ledger.jsonl
    exact_staleness: bool = False  # max_staleness is the age of every group


@dataclass(frozen=True, slots=True)
class Belongings:
    """What the driver owns and the queue needs, at the start and again after the queue's process died."""

    groups: Mapping[int, Held] = field(default_factory=dict)  # every group that is ready, or claimed and not yet covered by a checkpoint
    recorded: Mapping[int, Claim] = field(default_factory=dict)  # steps that an earlier driver trained beyond the checkpoint
    engines: Sequence[Any] = ()
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class Arrival:
    """A group that has come through the pools."""

    held: Held
    stages: Sequence[State]  # that it went through
    seconds: Mapping[str, float] = field(default_factory=dict)  # each of them took


@dataclass(frozen=True, slots=True)
class Published:
    """A step that was trained and whose version every engine has confirmed."""

    step: int
    frozen: FrozenStep
    result: StepResult
    time: float  # when, unix seconds
    committed: int  # the newest step that a checkpoint covers


@dataclass(frozen=True, slots=True)
class Recall:
    """What became of a prompt without the conductor's doing."""

    ordinal: int
    reason: Literal["stale", "lost"]  # stale: it was dropped, whoever works on it may stop; lost: it is to be issued again


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a checkpoint holds of the queue: the ledger, and the groups that are ready."""

    ledger: list[list[Any]]
    ready: tuple[Held, ...]
