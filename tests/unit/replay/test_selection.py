from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.replay.selection import choose, complete, tells_apart
from actors.types import GroupMeta, Outcome


def test_a_step_waits_until_it_is_full() -> None:
    assert choose(1, {0: 0}, {1: 0}, size=2, max_staleness=0) is None
    assert choose(1, {0: 0, 1: 0}, {}, size=2, max_staleness=0) == [0, 1]


def test_the_oldest_go_first_and_ties_by_ordinal() -> None:
    assert choose(4, {9: 2, 5: 3, 7: 2, 6: 3}, {}, size=3, max_staleness=5) == [5, 7, 9]


def test_the_young_overtake_while_the_old_still_fit() -> None:
    assert choose(3, {5: 2, 6: 2}, {1: 1, 2: 1}, size=2, max_staleness=2) == [5, 6]


def test_a_group_at_the_bound_is_waited_for() -> None:
    assert choose(3, {5: 2, 6: 2}, {1: 1}, size=2, max_staleness=1) is None
    assert choose(3, {5: 2, 6: 2, 1: 1}, {}, size=2, max_staleness=1) == [1, 5]


def test_old_groups_that_would_crowd_a_later_step_are_waited_for() -> None:
    """Three are due by the next step, which holds two: one of them has to come now."""
    ready, running = {5: 2, 6: 2}, {1: 1, 2: 1, 3: 1}
    assert choose(3, ready, running, size=2, max_staleness=2) is None
    assert choose(3, {**ready, 1: 1}, {2: 1, 3: 1}, size=2, max_staleness=2) == [1, 5]


@pytest.mark.parametrize("max_staleness", [0, 1])
def test_groups_past_the_bound_do_not_stop_the_run(max_staleness: int) -> None:
    """A learner that went back to step 2 has published old versions to everything that was under way at step 6."""
    ready = dict.fromkeys(range(6), 2)
    assert choose(6, ready, {}, size=2, max_staleness=max_staleness) == [0, 1]
    assert choose(6, ready, {6: 2, 7: 5}, size=2, max_staleness=max_staleness) == [0, 1]
    assert choose(6, {4: 3, 5: 3}, {6: 2}, size=2, max_staleness=max_staleness) is None


@given(
    size=st.integers(1, 4),
    max_staleness=st.integers(0, 3),
    chance=st.randoms(use_true_random=False),
    slow=st.sets(st.integers(0, 30), max_size=6),
)
def test_under_the_admission_rule_no_run_stands_still_or_passes_the_bound(
    size: int, max_staleness: int, chance: Random, slow: set[int]
) -> None:
    """Prompts finish in any order, some only when nothing else can move; some are dropped, and others take their places."""
    running: dict[int, int] = {}
    ready: dict[int, int] = {}
    version, admitted, places = 0, 0, 10 * size
    while version < 10:
        while places and len(running) + len(ready) < (max_staleness + 1) * size:
            running[admitted] = version
            admitted, places = admitted + 1, places - 1
        chosen = choose(version + 1, ready, running, size=size, max_staleness=max_staleness)
        if chosen is not None and chance.random() < 0.7:
            assert max(version - ready[ordinal] for ordinal in chosen) <= max_staleness
            assert len(set(chosen)) == size
            for ordinal in chosen:
                del ready[ordinal]
            version += 1
            continue
        if not running:
            assert chosen is not None, "nothing is under way and no step can be made"
            continue
        quick = [ordinal for ordinal in running if ordinal not in slow]
        done = chance.choice(quick or list(running))
        begun = running.pop(done)
        if chance.random() > 0.8:
            places += 1
            continue
        ready[done] = chance.choice([begun, version])
    assert not ready and not running


@given(
    size=st.integers(1, 4),
    age=st.integers(0, 4),
    steps=st.integers(1, 12),
    chance=st.randoms(use_true_random=False),
    dropped=st.floats(0, 0.6),
)
def test_where_all_the_bound_admits_is_waited_for_each_group_is_as_old_as_the_bound(
    size: int, age: int, steps: int, chance: Random, dropped: float
) -> None:
    """Prompts finish in any order, any share of them is dropped, and what a publication makes room for may be admitted late."""
    ready: dict[int, int] = {}
    running: dict[int, int] = {}
    version, admitted, places = 0, 0, steps * size
    while version < steps:
        chosen = None
        if complete(version + 1, len(ready), len(running), size=size, max_staleness=age, steps=steps):
            chosen = choose(version + 1, ready, running, size=size, max_staleness=age)
            assert chosen is not None
        if chosen is not None:
            assert [version - ready.pop(ordinal) for ordinal in chosen] == [min(version, age)] * size
            version += 1
        elif places and len(running) + len(ready) < (age + 1) * size and (not running or chance.random() < 0.5):
            running[admitted] = version
            admitted, places = admitted + 1, places - 1
        else:
            assert running, "nothing is under way and no step can be made"
            done = chance.choice(list(running))
            if chance.random() < dropped:
                del running[done]
                places += 1
            else:
                ready[done] = running.pop(done)
    assert not ready and not running and not places


def test_responses_of_one_truth_are_alike_however_long_they_are() -> None:
    meta = GroupMeta(0, (0, 0), (3, 9), scores=(1.0, 0.7), outcomes=(Outcome.RIGHT, Outcome.RIGHT), shaping=(0.0, -0.3))
    assert not tells_apart(meta)
    assert tells_apart(replace(meta, shaping=()))
