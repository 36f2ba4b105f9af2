"""What the driver owns, and when it lets go."""

from __future__ import annotations

import json
import weakref
from pathlib import Path
from typing import Any

import pytest

from actors.replay.standing import Claim
from actors.types import GroupMeta
from services.training.keeper import Keeper, restored
from tests.unit.replay.histories import record


class Ref:
    """Stands for an object reference: the object lives as long as it is held."""


def keep(keeper: Keeper, *ordinals: int) -> list[weakref.ref[Ref]]:
    """Groups that came through; weak references to their references."""
    made = [(ordinal, Ref()) for ordinal in ordinals]
    for ordinal, ref in made:
        keeper.keep(GroupMeta(ordinal, (0, 0), (1,)), ref)
    return [weakref.ref(ref) for _, ref in made]


def held(keeper: Keeper) -> list[int]:
    return sorted(keeper.belongings().groups)


def test_a_group_is_held_until_a_checkpoint_covers_its_step_and_no_longer() -> None:
    keeper = Keeper()
    groups = keep(keeper, 0, 1, 2, 3, 4)
    keeper.settle(1, [0, 1], committed=0)
    keeper.settle(2, [2, 3], committed=0)
    assert held(keeper) == [0, 1, 2, 3, 4]
    keeper.settle(3, [4], committed=1)
    assert held(keeper) == [2, 3, 4]
    assert [group() is None for group in groups] == [True, True, False, False, False]
    keeper.settle(4, [], committed=3)
    assert held(keeper) == [] and len(keeper) == 0


def test_a_step_that_is_covered_when_it_is_heard_of_is_let_go_at_once() -> None:
    keeper = Keeper()
    keep(keeper, 0, 1)
    keeper.settle(1, [0], committed=1)
    assert held(keeper) == [1]


def test_what_left_the_run_is_let_go_and_may_leave_twice() -> None:
    keeper = Keeper()
    (group,) = keep(keeper, 0)
    keeper.drop(0)
    keeper.drop(0)
    assert group() is None and held(keeper) == []


def test_the_references_of_a_step_come_in_its_order() -> None:
    keeper = Keeper()
    groups = keep(keeper, 0, 1, 2)
    assert keeper.refs([2, 0]) == [groups[2](), groups[0]()]
    with pytest.raises(KeyError):
        keeper.refs([3])


def test_recorded_steps_are_the_queues_until_they_are_covered() -> None:
    groups = {ordinal: (GroupMeta(ordinal, (0, 0), (1,)), [Ref()]) for ordinal in range(4)}
    keeper = Keeper(groups, {2: Claim((0, 1), 0), 3: Claim((2, 3), 0)})
    assert len(keeper) == 4
    keeper.settle(2, [0, 1], committed=1)
    keeper.settle(3, [2, 3], committed=2)
    own = keeper.belongings(["engine"], 7)
    assert own.recorded == {3: Claim((2, 3), 0)} and sorted(own.groups) == [2, 3]
    assert (own.engines, own.epoch) == (("engine",), 7)


def test_what_was_given_does_not_change_with_what_is_kept() -> None:
    keeper = Keeper()
    keep(keeper, 0)
    own = keeper.belongings()
    keeper.drop(0)
    assert list(own.groups) == [0]


@pytest.mark.parametrize(
    ("after", "steps"),
    [
        ([], [1, 2, 3]),
        ([{"event": "forgotten", "step": 2}], [1]),
        ([{"event": "forgotten", "step": 2}, {"event": "trained", "step": 2, "ordinals": [2, 3]}], [1, 2]),
        ([{"event": "trained", "step": 2, "ordinals": [2, 9]}], [1]),
    ],
    ids=["all", "forgotten", "written again", "trained anew and not yet written"],
)
def test_only_what_the_history_says_was_trained_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: list[dict[str, Any]], steps: list[int]
) -> None:
    monkeypatch.setattr("ray.put", lambda group: group)
    trained = [{"event": "trained", "step": step, "ordinals": [2 * step - 2, 2 * step - 1]} for step in (1, 2, 3)]
    (tmp_path / "ledger.jsonl").write_text("".join(json.dumps(event) + "\n" for event in [*trained, *after]))
    for step in (1, 2, 3):
        record(tmp_path, step, 2 * step - 2, 2 * step - 1)
    own = restored(None, tmp_path, tmp_path / "ledger.jsonl").belongings()
    assert list(own.recorded) == steps
    assert sorted(own.groups) == list(range(2 * len(steps)))
