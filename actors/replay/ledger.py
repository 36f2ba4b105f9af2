"""What happened to each prompt: a pure state machine. The queue actor is its only writer, `ledger.jsonl` its append-only history.

    admitted -> generated -> verified -> scored -> ready -> claimed -> trained
                         (scored is left out where there is no reference)
    any of the states before trained -> dropped, with a reason
    any of the states before trained -> admitted again, when its work was lost
    claimed -> ready again, when another group of its step was lost

`trained` and `dropped` are final for the run's memory, but a restart goes back to the last checkpoint's snapshot: what was trained
or dropped after it then lives again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from actors.errors import LedgerError


class State(StrEnum):
    """Where a prompt stands."""

    ADMITTED = "admitted"
    GENERATED = "generated"
    VERIFIED = "verified"
    SCORED = "scored"
    READY = "ready"
    CLAIMED = "claimed"
    TRAINED = "trained"
    DROPPED = "dropped"


FINAL = frozenset({State.TRAINED, State.DROPPED})

_NEXT: Mapping[State | None, frozenset[State]] = {
    None: frozenset({State.ADMITTED}),
    State.ADMITTED: frozenset({State.GENERATED, State.DROPPED, State.ADMITTED}),
    State.GENERATED: frozenset({State.VERIFIED, State.DROPPED, State.ADMITTED}),
    State.VERIFIED: frozenset({State.SCORED, State.READY, State.DROPPED, State.ADMITTED}),
    State.SCORED: frozenset({State.READY, State.DROPPED, State.ADMITTED}),
    State.READY: frozenset({State.CLAIMED, State.DROPPED, State.ADMITTED}),
    State.CLAIMED: frozenset({State.TRAINED, State.READY, State.DROPPED, State.ADMITTED}),
    State.TRAINED: frozenset(),
    State.DROPPED: frozenset(),
}


@dataclass(frozen=True, slots=True)
class Life:
    """One prompt's present state; `step` once claimed, `reason` if dropped, and then `step` is the one that was next."""

    state: State
    step: int | None = None
    reason: str | None = None


class Ledger:
    """The lives of all prompts of a run."""

    def __init__(self, lives: Mapping[int, Life] | None = None) -> None:
        self._lives: dict[int, Life] = dict(lives or {})

    def __getitem__(self, ordinal: int) -> Life:
        return self._lives[ordinal]

    def __contains__(self, ordinal: int) -> bool:
        return ordinal in self._lives

    def move(self, ordinal: int, state: State, *, step: int | None = None, reason: str | None = None) -> Life:
        """Take a prompt one step along its life, or raise LedgerError and change nothing."""
        before = self._lives.get(ordinal)
        came_from = before.state if before else None
        if state not in _NEXT[came_from]:
            raise LedgerError(f"prompt {ordinal} cannot go from {came_from or 'nothing'} to {state}")
        if (state is State.DROPPED) != (reason is not None):
            raise LedgerError(f"prompt {ordinal}: a reason belongs to dropped prompts, and to them only")
        if state in {State.CLAIMED, State.TRAINED} and step is None:
            raise LedgerError(f"prompt {ordinal}: {state} without a step")
        if state is State.TRAINED and before and before.step != step:
            raise LedgerError(f"prompt {ordinal} was claimed for step {before.step}, not {step}")
        life = Life(state, step, reason)
        self._lives[ordinal] = life
        return life

    def unfinished(self) -> list[int]:
        """Prompts neither trained nor dropped, in order; also those that later ones passed over, since a checkpoint does not know them."""
        lives = self._lives
        return [ordinal for ordinal in range(self.next_ordinal()) if ordinal not in lives or lives[ordinal].state not in FINAL]

    def next_ordinal(self) -> int:
        """The first ordinal that was never admitted."""
        return max(self._lives, default=-1) + 1

    def account(self) -> dict[str, int]:
        """How many prompts stand in each state; every admitted prompt is counted once."""
        counts = Counter(life.state for life in self._lives.values())
        return {state.value: counts[state] for state in State}

    def rolled_back(self, step: int) -> Ledger:
        """The ledger as a restart from the checkpoint of `step` sees it: later work is undone, unfinished prompts are admitted anew."""
        kept = {}
        for ordinal, life in self._lives.items():
            undone = life.state not in FINAL or (life.step or 0) > step
            kept[ordinal] = Life(State.ADMITTED) if undone else life
        return Ledger(kept)

    def snapshot(self) -> list[list[Any]]:
        """Plain rows [ordinal, state, step, reason], for a checkpoint."""
        return [[ordinal, life.state.value, life.step, life.reason] for ordinal, life in sorted(self._lives.items())]

    @classmethod
    def restore(cls, rows: Iterable[Iterable[Any]]) -> Ledger:
        """The inverse of `snapshot`."""
        return cls({ordinal: Life(State(state), step, reason) for ordinal, state, step, reason in rows})
