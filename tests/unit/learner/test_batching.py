from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from actors.learner.batching import MicroBatch, assemble, micro_batches, pieces
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
    """Rows of these many response tokens, numbered from 1: in their tokens, their log-probs and their advantage."""
    return [
        Row(
            token_ids=np.full(2 + length, number, dtype=np.int32),
            prompt_length=2,
            mask=np.ones(length, dtype=np.bool_),
            logprobs=np.full(length, -number, dtype=np.float32),
            ref_logprobs=None,
            advantage=float(number),
            update=0,
            current=np.arange(length) % 2 == 0,
        )
        for number, length in enumerate(lengths, start=1)
    ]


def loads(cut: list[MicroBatch]) -> list[int]:
    return [sum(micro.batch.sequence_lengths) for micro in cut]


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


@given(lengths=st.lists(st.integers(0, 40), max_size=20), budget=st.integers(1, 100), more=st.integers(0, 3))
def test_micro_batches_hold_every_row_once_within_the_budget(lengths: list[int], budget: int, more: int) -> None:
    rows = rows_of(lengths)
    cut = micro_batches(rows, pieces(rows, budget) + more, CPU)
    held = [number for micro in cut for number in micro.advantages.int().tolist() if number]
    assert sorted(held) == list(range(1, len(lengths) + 1))
    assert all(load <= budget or len(micro.advantages) == 1 for load, micro in zip(loads(cut), cut, strict=True))


@given(lengths=st.lists(st.integers(0, 40), min_size=1, max_size=20), budget=st.integers(1, 100))
def test_no_fewer_micro_batches_would_do(lengths: list[int], budget: int) -> None:
    rows = rows_of(lengths)
    fewer = micro_batches(rows, pieces(rows, budget) - 1, CPU) if pieces(rows, budget) > 1 else None
    assert fewer is None or any(load > budget and len(micro.advantages) > 1 for load, micro in zip(loads(fewer), fewer, strict=True))


@given(lengths=st.lists(st.integers(0, 400), min_size=8, max_size=60), count=st.integers(1, 8))
def test_pieces_weigh_about_the_same(lengths: list[int], count: int) -> None:
    weights = loads(micro_batches(rows_of(lengths), count, CPU))
    assert max(weights) - min(weights) <= max(lengths) + 2


def test_a_row_keeps_its_own_figures_in_whatever_piece_it_lands() -> None:
    lengths = [3, 0, 7, 1, 7]
    for micro in micro_batches(rows_of(lengths), 2, CPU):
        for row, number in enumerate(micro.advantages.int().tolist()):
            length = lengths[number - 1]
            assert micro.batch.response_lengths[row] == length
            assert micro.mask[row].tolist() == [column < length for column in range(micro.batch.width)]
            assert micro.behaviour[row].tolist() == [-number if column < length else 0 for column in range(micro.batch.width)]
            assert micro.current[row].tolist() == [column < length and column % 2 == 0 for column in range(micro.batch.width)]
            assert (micro.batch.spread(micro.batch.targets)[row, :length] == number).all()


def test_the_same_rows_are_cut_in_the_same_way() -> None:
    ours, theirs = (micro_batches(rows_of([5, 5, 9, 5, 0, 9, 2]), 3, CPU) for _ in range(2))
    assert [micro.advantages.tolist() for micro in ours] == [micro.advantages.tolist() for micro in theirs]


def test_without_rows_there_is_nothing_to_cut() -> None:
    assert pieces([], 100) == 0
    assert micro_batches([], 0, CPU) == []


def test_without_a_reference_there_is_none_to_compare_with() -> None:
    batch = assemble(work([RowPlan(0, 0, 0, 1.0)]), [group(10, [3], reference=False)])
    [micro] = micro_batches(batch.rows, 1, CPU)
    assert micro.reference is None


def test_pieces_without_rows_have_something_to_score_and_nothing_to_learn() -> None:
    _, micro = micro_batches(rows_of([4]), 2, CPU)
    assert micro.batch.mask.any() and not micro.mask.any() and not micro.current.any() and not micro.advantages.any()
