"""Where a run stands, as its events tell: the replay queue's state is nothing but their sum, so that it can be had again from the file.

Pure. The queue applies each event as it writes it; a rebuilt queue and the audit apply those that they read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from actors.replay.ledger import Ledger, State

Event = Mapping[str, Any]
"""One line of the history; `history` lists them."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A step as it was frozen."""

    ordinals: tuple[int, ...]
    filtered: int  # groups dropped on the way to it because they told no response from another


@dataclass(slots=True)
class Standing:
    """Everything that the events determine."""

    ledger: Ledger = field(default_factory=Ledger)
    waiting: dict[int, int] = field(default_factory=dict)  # prompts under way -> version at admission
    claims: dict[int, Claim] = field(default_factory=dict)  # steps that no checkpoint covers yet
    turns: dict[int, int | None] = field(default_factory=dict)  # of the present attempt: last turns -> step, or None for a resync
    trained: int = 0  # newest step
    filtered: int = 0  # groups since the last claim
    attempt: int = 0
    recorded: int = 0  # newest step whose groups are on disk
    forgotten: int | None = None  # first step that this driver will not train on what an earlier one recorded for it
    committed: int = 0  # step of the newest checkpoint
    version: int = 0  # that the engines sample with
    publications: int = 0
    resyncing: int = -1  # epoch of engines that the present attempt was last sent to
    synced: int = -1  # epoch of engines that confirmed a version to the present attempt
    served: int = -1  # epoch of engines that confirmed a version last, to any attempt
    reached: int = 0  # newest step whose version was published
    engines_lost: int = 0
    stopping: str | None = None  # why no further step follows

    @classmethod
    def of(cls, events: Iterable[Event]) -> Standing:
        """The sum of a history. Raises LedgerError where a prompt took a way that no life has."""
        standing = cls()
        for event in events:
            standing.apply(event)
        return standing

    def apply(self, event: Event) -> None:
        """Take one event further; kinds that change nothing are passed over."""
        change = getattr(self, f"_{event['event']}", None)
        if change is not None:
            change(event)

    def _started(self, event: Event) -> None:
        self._resumed(event)

    def _resumed(self, event: Event) -> None:
        """A new driver: what its checkpoint does not cover did not happen."""
        step = event["step"]
        self.ledger = self.ledger.rolled_back(step)
        self.waiting, self.claims, self.turns = {}, {}, {}
        self.filtered = self.attempt = self.engines_lost = 0
        self.resyncing = self.synced = self.served = -1
        self.version = self.committed = self.trained = self.recorded = self.reached = step
        self.stopping = self.forgotten = None

    def _forgotten(self, event: Event) -> None:
        self.forgotten = event["step"]
        self.recorded = min(self.recorded, event["step"] - 1)

    def _admitted(self, event: Event) -> None:
        for ordinal in event["ordinals"]:
            self.ledger.move(ordinal, State.ADMITTED)
            self.waiting[ordinal] = event["version"]

    def _ready(self, event: Event) -> None:
        for ordinal in event["ordinals"]:
            for stage in event["stages"]:
                self.ledger.move(ordinal, State(stage))
            self.ledger.move(ordinal, State.READY)
            self.waiting.pop(ordinal, None)

    def _dropped(self, event: Event) -> None:
        for ordinal in event["ordinals"]:
            self.ledger.move(ordinal, State.DROPPED, step=event["step"], reason=event["reason"])
            self.waiting.pop(ordinal, None)
            self.filtered += event["reason"] == "filtered"

    def _claimed(self, event: Event) -> None:
        for ordinal in event["ordinals"]:
            self.ledger.move(ordinal, State.CLAIMED, step=event["step"])
        self.claims[event["step"]] = Claim(tuple(event["ordinals"]), event["filtered"])
        self.filtered = 0
        self._take_turn(event["turn"], event["step"])

    def _unclaimed(self, event: Event) -> None:
        for ordinal in event["ordinals"]:
            self.ledger.move(ordinal, State.READY)
        del self.claims[event["step"]]

    def _reclaimed(self, event: Event) -> None:
        self._take_turn(event["turn"], event["step"])

    def _resync(self, event: Event) -> None:
        self.resyncing = event["epoch"]
        self._take_turn(event["turn"], None)

    def _take_turn(self, turn: int, step: int | None) -> None:
        """A rank may still ask for the turn before; no one asks for an earlier one."""
        self.turns = {turn: step} | {old: kept for old, kept in self.turns.items() if old == turn - 1}

    def _learner(self, event: Event) -> None:
        self.attempt, self.version = event["attempt"], event["step"]
        self.resyncing = self.synced = -1
        self.turns = {}

    def _trained(self, event: Event) -> None:
        for ordinal in event["ordinals"]:
            self.ledger.move(ordinal, State.TRAINED, step=event["step"])
        self.trained = event["step"]

    def _recorded(self, event: Event) -> None:
        self.recorded = event["step"]

    def _published(self, event: Event) -> None:
        self.publications, self.version = event["number"], event["version"]
        self.synced = self.served = event["epoch"]
        self.reached = max(self.reached, self.version)

    def _engine_lost(self, _: Event) -> None:
        self.engines_lost += 1

    def _stopping(self, event: Event) -> None:
        self.stopping = event["reason"]

    def _committed(self, event: Event) -> None:
        self.committed = event["step"]
        self.claims = {step: claim for step, claim in self.claims.items() if step > self.committed}
