from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from actors.learner.batching import assemble, empty_micro_batch, micro_batches
from actors.types import BatchTotals, FloatArray, Prompt, Rollout, RolloutGroup, Row, RowPlan, Span, Work

CPU = torch.device("cpu")


def group(ordinal: int, lengths: list[int], *, spans: tuple[Span, ...] = (), reference: bool = True) -> RolloutGroup:
    rollouts = tuple(
        Rollout(
            np.arange(length, dtype=np.int32) + 100,
            np.linspace(-1, -2, length, dtype=np.float32),
            np.ones(length, dtype=np.bool_),
            spans or (Span(4, 0, length),),
            "stop",
            "",
        )
        for length in lengths
    )
    prompt = Prompt(ordinal, "math", np.asarray([1, 2, 3], dtype=np.int32), "7", "2+5=", "rows#0")
    references: tuple[FloatArray, ...] = tuple(rollout.logprobs - 1 for rollout in rollouts)
    return RolloutGroup(prompt, rollouts, ref_logprobs=references if reference else None)


def work(rows: list[RowPlan], step: int = 5) -> Work:
    return Work(step, (10, 11), (), tuple(rows), (BatchTotals(2, 6), BatchTotals(1, 3)), {})


def rows_of(lengths: list[int]) -> list[Row]:
    nothing = np.zeros(0, dtype=np.bool_)
    return [
        Row(
            np.full(2 + length, index, dtype=np.int32),
            2,
            np.ones(length, dtype=np.bool_),
            np.zeros(length, np.float32),
            None,
            1.0,
            0,
            nothing,
        )
        for index, length in enumerate(lengths)
    ]


def test_rows_are_taken_from_the_groups_the_plan_names() -> None:
    groups = [group(10, [2, 4]), group(11, [3, 0])]
    batch = assemble(work([RowPlan(1, 0, 0, 0.5), RowPlan(0, 1, 1, -0.5), RowPlan(1, 1, 1, 0.1)]), groups)
    assert [len(row.token_ids) for row in batch.rows] == [6, 7, 3]
    assert [row.token_ids.tolist()[:4] for row in batch.rows[:2]] == [[1, 2, 3, 100]] * 2
    assert [row.advantage for row in batch.update_rows(1)] == [-0.5, 0.1]
    np.testing.assert_array_equal(batch.rows[1].logprobs - 1, batch.rows[1].ref_logprobs)


def test_only_tokens_of_the_version_about_to_be_trained_are_current() -> None:
    mixed = group(10, [5], spans=(Span(3, 0, 2), Span(4, 2, 4), Span(3, 4, 5)))
    batch = assemble(work([RowPlan(0, 0, 0, 1.0)], step=5), [mixed])
    assert batch.rows[0].current.tolist() == [False, False, True, True, False]


@given(lengths=st.lists(st.integers(0, 40), max_size=20), budget=st.integers(1, 100))
def test_micro_batches_hold_every_row_once_within_the_budget(lengths: list[int], budget: int) -> None:
    cut = micro_batches(rows_of(lengths), budget, CPU)
    held = [int(first) for micro in cut for first in micro.batch.token_ids[:, 0]]
    assert sorted(held) == list(range(len(lengths)))
    for micro in cut:
        assert micro.batch.token_ids.numel() <= budget or len(micro.advantages) == 1
        assert micro.mask.shape == micro.behaviour.shape == (len(micro.advantages), micro.batch.width)
        assert micro.mask.sum(-1).tolist() == micro.batch.lengths.tolist()


def test_without_a_reference_there_is_none_to_compare_with() -> None:
    batch = assemble(work([RowPlan(0, 0, 0, 1.0)]), [group(10, [3], reference=False)])
    [micro] = micro_batches(batch.rows, 100, CPU)
    assert micro.reference is None


def test_an_empty_micro_batch_has_something_to_score_and_nothing_to_learn() -> None:
    micro = empty_micro_batch(CPU)
    assert micro.batch.mask.any() and not micro.mask.any() and not micro.current.any() and not micro.advantages.any()
