from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.replay.audit import audit
from tests.unit.replay.histories import PROMPTS, STALENESS, plain_history, random_history

Events = list[dict[str, Any]]


def find(events: Events, kind: str, **fields: Any) -> int:
    """Where the first event of a kind with these fields is."""
    return next(i for i, event in enumerate(events) if event["event"] == kind and fields.items() <= event.items())


def dropped(kind: str, **fields: Any) -> Callable[[Events], None]:
    return lambda events: events.remove(events[find(events, kind, **fields)])


def repeated(kind: str, **fields: Any) -> Callable[[Events], None]:
    return lambda events: events.insert(find(events, kind, **fields) + 1, events[find(events, kind, **fields)])


def changed(kind: str, change: dict[str, Any], **fields: Any) -> Callable[[Events], None]:
    return lambda events: events[find(events, kind, **fields)].update(change)


def inserted(event: dict[str, Any], before: str, **fields: Any) -> Callable[[Events], None]:
    return lambda events: events.insert(find(events, before, **fields), event)


def swapped(kind: str, one: dict[str, Any], other: dict[str, Any]) -> Callable[[Events], None]:
    def swap(events: Events) -> None:
        first, second = find(events, kind, **one), find(events, kind, **other)
        events[first], events[second] = events[second], events[first]

    return swap


def cut(events: Events, kind: str, **fields: Any) -> Events:
    """The history up to and with an event."""
    return events[: find(events, kind, **fields) + 1]


def test_the_account_of_a_run_to_which_nothing_happened() -> None:
    found = audit(plain_history(), max_staleness=STALENESS, steps=3)
    assert found.violations == () and found.finished
    assert found.trained == {1: (0, 1), 2: (2, 3), 3: (4, 5)}
    account = found.account
    assert {state: count for state, count in account.prompts.items() if count} == {"trained": 6}
    assert (account.steps, account.committed, account.publications, account.oldest_age) == (3, 1, 4, 0)
    assert (account.driver_restarts, account.queue_restarts, account.learner_restarts, account.reissued) == (0, 0, 0, 0)


def test_the_account_counts_what_happened() -> None:
    history: Events = [
        {"event": "started", "session": "a", "step": 0},
        {"event": "learner", "attempt": 1, "step": 0},
        {"event": "published", "number": 1, "version": 0, "epoch": 1},
        {"event": "admitted", "ordinals": [0, 1, 2, 3], "version": 0},
        {"event": "engine_lost", "engine": 0, "why": "killed"},
        {"event": "engine_back", "engine": 0, "why": ""},
        {"event": "checkpoint_failed", "why": "the disk is full"},
        {"event": "unsynced", "engine": 0, "phase": "send", "version": 0, "epoch": 1, "error": ""},
        {"event": "admitted", "ordinals": [1], "version": 0},
        {"event": "ready", "ordinals": [0], "stages": ["generated", "verified", "scored"], "versions": [0, 0]},
        {"event": "ready", "ordinals": [1], "stages": ["generated", "verified", "scored"], "versions": [0, 0]},
        {"event": "dropped", "ordinals": [2], "reason": "poisoned", "step": 1},
        {"event": "claimed", "ordinals": [0], "step": 1, "attempt": 1, "turn": 1, "filtered": 0},
        {"event": "trained", "ordinals": [0], "step": 1},
        {"event": "published", "number": 2, "version": 1, "epoch": 1},
        {"event": "committed", "step": 1},
        {"event": "rebuilt", "session": "a"},
        {"event": "learner", "attempt": 2, "step": 1},
        {"event": "published", "number": 3, "version": 1, "epoch": 1},
        {"event": "claimed", "ordinals": [1], "step": 2, "attempt": 2, "turn": 1, "filtered": 0},
        {"event": "trained", "ordinals": [1], "step": 2},
        {"event": "published", "number": 4, "version": 2, "epoch": 1},
        {"event": "resumed", "session": "b", "step": 1},
    ]
    found = audit(history, max_staleness=1, steps=2)
    account = found.account
    assert found.violations == () and not found.finished and found.trained == {1: (0,)}
    assert {state: count for state, count in account.prompts.items() if count} == {"trained": 1, "dropped": 1, "admitted": 2}
    assert account.dropped == {"poisoned": 1} and account.reissued == 1
    assert (account.driver_restarts, account.queue_restarts, account.learner_restarts) == (1, 1, 1)
    assert (account.publications, account.failed_publications, account.engines_lost, account.engines_back) == (4, 1, 1, 1)
    assert (account.steps, account.committed, account.oldest_age, account.failed_checkpoints) == (1, 1, 0, 1)


@given(st.integers(0, 10**6))
def test_a_run_to_which_everything_happens_breaks_no_rule(seed: int) -> None:
    history = random_history(seed)
    found = audit(history, max_staleness=STALENESS, steps=8)
    assert found.violations == () and found.finished
    assert sorted(found.trained) == list(range(1, 9))
    assert len({ordinal for batch in found.trained.values() for ordinal in batch}) == found.account.prompts["trained"] == 8 * PROMPTS


@given(st.integers(0, 10**6), st.integers(1, 10**6))
def test_a_run_that_goes_on_breaks_no_rule_wherever_one_looks(seed: int, place: int) -> None:
    history = random_history(seed)
    assert audit(history[: place % len(history)], max_staleness=STALENESS, steps=8).violations == ()


TELLING = {"admitted", "ready", "claimed", "trained", "published", "started", "resumed", "learner"}


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_no_line_that_matters_may_be_missing(seed: int, place: int) -> None:
    history = random_history(seed)
    last = max(i for i, event in enumerate(history) if event["event"] in BEGINNINGS)  # what comes before may have been undone
    first = {ordinal: i for i, event in reversed([*enumerate(history)]) if event["event"] == "admitted" for ordinal in event["ordinals"]}
    again = {i for i, event in enumerate(history) if event["event"] == "admitted" and first[event["ordinals"][0]] < i}
    candidates = [i for i in range(last, len(history)) if history[i]["event"] in TELLING and i not in again]
    del history[candidates[place % len(candidates)]]
    assert audit(history, max_staleness=STALENESS, steps=8).violations


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_no_line_of_a_life_may_come_twice(seed: int, place: int) -> None:
    history = random_history(seed)
    twice = [i for i, event in enumerate(history) if event["event"] in TELLING - BEGINNINGS - {"admitted"} | {"dropped", "committed"}]
    chosen = twice[place % len(twice)]
    history.insert(chosen, history[chosen])
    assert audit(history, max_staleness=STALENESS, steps=8).violations


BEGINNINGS = {"started", "resumed"}
GOES_BACK = {"event": "resumed", "session": "driver 2", "step": 1}


@pytest.mark.parametrize(
    ("mutation", "complaint"),
    [
        (dropped("admitted", ordinals=[2]), "ready: prompt 2 cannot go from nothing to generated"),
        (dropped("ready", ordinals=[2]), "claimed: prompt 2 cannot go from admitted to claimed"),
        (dropped("claimed", step=2), "trained: step 2 was not claimed"),
        (dropped("trained", step=2), "trained: step 3 follows step 1"),
        (dropped("trained", step=3), "closed: 6 prompts trained, while the lines before make it 4"),
        (dropped("published", version=2), "trained: the version of step 2 was not published before"),
        (dropped("published", version=1), "committed: the version of step 1 was not published before"),
        (dropped("published", version=3), "at the end: step 3 was trained and its version never published"),
        (dropped("started"), "learner: comes before any driver began"),
        (dropped("learner"), "resync: for attempt 1, which attempt 0 has replaced"),
        (repeated("trained", step=2), "trained: prompt 2 cannot go from trained to trained"),
        (repeated("trained", step=2), "trained: step 2 follows step 2"),
        (repeated("claimed", step=2), "claimed: turn 3 was already decided"),
        (repeated("published", version=2), "published: publication 3 follows publication 3"),
        (repeated("committed"), "committed: the checkpoint of step 1 follows that of step 1"),
        (repeated("closed"), "closed: comes after the queue was closed"),
        (changed("trained", {"ordinals": [2, 1]}, step=2), "trained: step 2 was claimed with prompts 2, 3, and trained on prompts 2, 1"),
        (changed("claimed", {"ordinals": [2, 1]}, step=2), "claimed: prompt 1 cannot go from trained to claimed"),
        (changed("trained", {"step": 3}, step=2), "trained: step 3 follows step 1"),
        (changed("admitted", {"ordinals": [9]}, ordinals=[5]), "at the end: prompts 6, 7, 8 never admitted"),
        (changed("ready", {"versions": [-1, 1]}, ordinals=[2]), "claimed: step 2: prompt 2 older than 1 versions"),
        (changed("published", {"number": 9}, version=2), "published: publication 9 follows publication 2"),
        (changed("published", {"version": 0}, version=3), "published: version 0 follows version 2 of the same learner group"),
        (changed("published", {"version": 7}, version=3), "published: version 7 is of a step that was not claimed"),
        (changed("committed", {"step": 2}), "committed: step 2 was not trained"),
        (changed("learner", {"step": 2}), "learner: begins from step 2, and the newest checkpoint is of step 0"),
        (changed("learner", {"attempt": 2}), "learner: attempt 2 follows attempt 0"),
        (changed("claimed", {"attempt": 4}, step=2), "claimed: for attempt 4, which attempt 1 has replaced"),
        (changed("closed", {"event": "rebuilt", "session": "x"}), "rebuilt: the queue of x, while driver 1 drives the run"),
        (swapped("trained", {"step": 1}, {"step": 2}), "trained: step 2 follows step 0"),
        (swapped("published", {"version": 1}, {"version": 2}), "published: publication 3 follows publication 1"),
        (inserted({"event": "admitted", "ordinals": [6], "version": 3}, "stopping"), "at the end: prompt 6 neither trained nor dropped"),
        (
            inserted({"event": "admitted", "ordinals": [2], "version": 3}, "stopping"),
            "admitted: prompt 2 cannot go from trained to admitted",
        ),
        (
            inserted({"event": "dropped", "ordinals": [2], "reason": "bored", "step": 2}, "ready", ordinals=[2]),
            "dropped: prompt 2 dropped for no known reason: bored",
        ),
        (inserted({"event": "stopping", "reason": "asked"}, "claimed", step=2), "claimed: comes after the run was told to stop"),
        (inserted(GOES_BACK, "trained", step=1), "resumed: goes on from step 1, and 0 steps were trained"),
        (
            inserted({"event": "unclaimed", "ordinals": [2, 3], "step": 2}, "published", version=2),
            "unclaimed: step 2 was already trained",
        ),
        (inserted({"event": "trained"}, "stopping"), "not an event as the history lists them (KeyError: 'step')"),
        (inserted({"time": 1.0}, "stopping"), "not an event as the history lists them (KeyError: 'event')"),
    ],
)
def test_each_broken_rule_is_told(mutation: Callable[[Events], None], complaint: str) -> None:
    history = copy.deepcopy(plain_history())
    mutation(history)
    violations = audit(history, max_staleness=STALENESS, steps=3).violations
    assert any(complaint in violation for violation in violations), violations


def test_a_violation_names_its_line_and_is_not_told_of_every_later_one() -> None:
    history = plain_history()
    place = find(history, "admitted", ordinals=[2])
    del history[place]
    assert audit(history, max_staleness=STALENESS, steps=3).violations == (
        f"line {place + 1}, ready: prompt 2 cannot go from nothing to generated",
    )


def again(batch: list[int], *extra: dict[str, Any]) -> Events:
    """A driver that trained steps 2 and 3 beyond its checkpoint died; the next one freezes step 2."""
    returned = [
        {"event": "ready", "ordinals": [ordinal], "stages": ["generated", "verified"], "versions": [1, 1]} for ordinal in range(2, 6)
    ]
    learner = [{"event": "learner", "attempt": 1, "step": 1}, {"event": "published", "number": 5, "version": 1, "epoch": 1}]
    claim = {"event": "claimed", "ordinals": batch, "step": 2, "attempt": 1, "turn": 1, "filtered": 0}
    return [*plain_history(), GOES_BACK, *extra, *returned, *learner, claim]


def test_a_step_that_a_restart_undid_is_done_again_unchanged() -> None:
    assert audit(again([2, 3]), max_staleness=0).violations == ()
    (violation,) = audit(again([2, 4])).violations
    assert violation.endswith("claimed: step 2 was trained on prompts 2, 3 before a restart, and is now to be on prompts 2, 4")
    assert audit(again([2, 4], {"event": "forgotten", "step": 2})).violations == ()


def test_what_a_restart_undid_is_not_trained_twice() -> None:
    found = audit([*again([2, 3]), {"event": "trained", "ordinals": [2, 3], "step": 2}])
    assert found.violations == () and found.trained == {1: (0, 1), 2: (2, 3)}


def test_groups_that_a_learner_restart_aged_are_counted_and_no_violation() -> None:
    history = plain_history()
    history[find(history, "ready", ordinals=[2])]["versions"] = [-1, 1]
    fault = audit(history, max_staleness=STALENESS)
    assert fault.account.overdue == 1 and fault.account.oldest_age == 2 and len(fault.violations) == 1
    assert audit(history).violations == ()

    place = find(history, "claimed", step=2)
    back = [{"event": "learner", "attempt": 2, "step": 1}, {"event": "published", "number": 3, "version": 1, "epoch": 1}]
    history[place:] = [*back, history[place] | {"attempt": 2, "turn": 1}]
    excused = audit(history, max_staleness=STALENESS)
    assert excused.account.overdue == 1 and excused.account.learner_restarts == 1 and excused.violations == ()


def test_a_run_that_was_stopped_may_leave_prompts_under_way() -> None:
    history = cut(plain_history(), "ready", ordinals=[5])
    found = audit([*history, {"event": "stopping", "reason": "asked"}], steps=3)
    assert found.violations == () and not found.finished and found.account.prompts["ready"] == 2


def test_a_drop_that_was_undone_may_leave_one_prompt_over() -> None:
    drop = {"event": "dropped", "ordinals": [6], "reason": "stale", "step": 2}
    left = [{"event": "admitted", "ordinals": [6], "version": 1}, drop, GOES_BACK]
    finished = again([2, 3])[len(plain_history()) + 1 :]
    for step in (2, 3):
        batch = [2 * step - 2, 2 * step - 1]
        if step == 3:
            finished.append({"event": "claimed", "ordinals": batch, "step": 3, "attempt": 1, "turn": 2, "filtered": 0})
        finished.append({"event": "trained", "ordinals": batch, "step": step})
        finished.append({"event": "published", "number": 4 + step, "version": step, "epoch": 1})
    whole = [*plain_history()[:-2], *left, *finished]
    assert audit(whole, steps=3).violations == ()
    whole.remove(drop)
    assert audit(whole, steps=3).violations == ("at the end: prompt 6 neither trained nor dropped, though the last step is done",)


def test_an_empty_history_has_an_empty_account() -> None:
    found = audit([])
    assert found.violations == () and sum(found.account.prompts.values()) == 0 and found.account.oldest_age is None
