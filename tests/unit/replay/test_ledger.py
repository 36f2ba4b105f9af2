from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.errors import LedgerError
from actors.replay.ledger import FINAL, Ledger, Life, State

A, G, V, S, R, C, T, D = State
WAY = (A, G, V, S, R, C, T)
LEGAL = {
    None: {A},
    A: {G, D, A},
    G: {V, D, A},
    V: {S, R, D, A},
    S: {R, D, A},
    R: {C, D, A},
    C: {T, R, D, A},
    T: set(),
    D: set(),
}


def move(ledger: Ledger, ordinal: int, state: State, step: int = 1) -> None:
    extra = {"step": step} if state in {C, T} else {"reason": "too stale"} if state is D else {}
    ledger.move(ordinal, state, **extra)


def at(state: State | None, ordinal: int = 0, step: int = 1) -> Ledger:
    """A ledger that holds one prompt, brought to `state` along its way."""
    ledger = Ledger()
    if state is D:
        move(ledger, ordinal, A)
        move(ledger, ordinal, D)
    elif state is not None:
        for passed in WAY[: WAY.index(state) + 1]:
            move(ledger, ordinal, passed, step)
    return ledger


@pytest.mark.parametrize("before", [None, *State])
@pytest.mark.parametrize("after", State)
def test_every_edge_is_either_legal_or_refused_without_a_trace(before: State | None, after: State) -> None:
    ledger = at(before)
    held = ledger.snapshot()
    if after in LEGAL[before]:
        move(ledger, 0, after)
        assert ledger[0].state is after
    else:
        with pytest.raises(LedgerError, match=f"prompt 0 cannot go from {before or 'nothing'} to {after}"):
            move(ledger, 0, after)
        assert ledger.snapshot() == held


@pytest.mark.parametrize(
    ("before", "after", "extra"),
    [
        (A, D, {}),
        (A, D, {"reason": None}),
        (A, G, {"reason": "why"}),
        (R, C, {}),
        (C, T, {}),
        (C, T, {"step": 2}),
    ],
)
def test_a_move_that_does_not_say_what_it_must_is_refused_without_a_trace(before: State, after: State, extra: dict[str, object]) -> None:
    ledger = at(before, step=1)
    held = ledger.snapshot()
    with pytest.raises(LedgerError):
        ledger.move(0, after, **extra)  # type: ignore[arg-type]
    assert ledger.snapshot() == held


def test_scoring_is_left_out_where_there_is_no_reference() -> None:
    ledger = at(V)
    move(ledger, 0, R)
    assert ledger[0] == Life(R)


def test_a_restart_undoes_what_the_checkpoint_does_not_cover() -> None:
    lives = {0: Life(T, 1), 1: Life(T, 3), 2: Life(C, 4), 3: Life(R), 4: Life(D, 2, "too stale"), 5: Life(A), 6: Life(T, 2)}
    ledger = Ledger(lives | {7: Life(D, 3, "filtered")})
    back = ledger.rolled_back(2)
    assert {ordinal: back[ordinal] for ordinal in range(8)} == {
        0: Life(T, 1),
        1: Life(A),
        2: Life(A),
        3: Life(A),
        4: Life(D, 2, "too stale"),
        5: Life(A),
        6: Life(T, 2),
        7: Life(A),
    }
    assert back.unfinished() == [1, 2, 3, 5, 7] and back.next_ordinal() == 8
    assert ledger[1] == Life(T, 3)


def test_an_empty_ledger_starts_at_ordinal_zero() -> None:
    assert Ledger().next_ordinal() == 0 and Ledger().unfinished() == []
    assert 0 not in Ledger()


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(State), st.integers(1, 3)), max_size=80))
def test_whatever_is_tried_everyone_admitted_is_counted_once_and_survives_a_snapshot(tries: list[tuple[int, State, int]]) -> None:
    ledger, admitted = Ledger(), set()
    for ordinal, state, step in tries:
        try:
            move(ledger, ordinal, state, step)
        except LedgerError:
            continue
        admitted.add(ordinal)
    account = ledger.account()
    assert sum(account.values()) == len(admitted)
    assert set(account) == {state.value for state in State}
    finished = {ordinal for ordinal in admitted if ledger[ordinal].state in FINAL}
    assert ledger.unfinished() == sorted(set(range(max(admitted, default=-1) + 1)) - finished)
    restored = Ledger.restore(json.loads(json.dumps(ledger.snapshot())))
    assert restored.snapshot() == ledger.snapshot() and restored.account() == account
