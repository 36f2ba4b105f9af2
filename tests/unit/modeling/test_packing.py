from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._pytree import tree_map

from actors.modeling.attention import SPARE_PAIRS, lay_out
from actors.modeling.packing import Packed, pack

CPU = torch.device("cpu")
shapes = st.lists(st.tuples(st.integers(1, 9), st.integers(0, 30)), min_size=1, max_size=12)


def packed(shape: list[tuple[int, int]]) -> Packed:
    total = np.arange(sum(map(sum, shape)), dtype=np.int32) + 100  # no token twice
    ends = np.cumsum([prompt + response for prompt, response in shape])
    return pack(np.split(total, ends[:-1]), [prompt for prompt, _ in shape], CPU)


@given(shape=shapes)
def test_every_token_lies_once_in_the_stream_and_every_response_token_once_in_the_rows(shape: list[tuple[int, int]]) -> None:
    batch = packed(shape)
    assert batch.sequence_lengths == tuple(prompt + response for prompt, response in shape)
    assert batch.token_ids.tolist() == list(range(100, 100 + sum(batch.sequence_lengths)))
    assert batch.positions.tolist() == [place for length in batch.sequence_lengths for place in range(length)]
    assert batch.width == max(1, *(response for _, response in shape))
    assert batch.mask.tolist() == [[column < response for column in range(batch.width)] for _, response in shape]
    rows = batch.spread(batch.targets)
    assert torch.equal(batch.token_ids[batch.predictors] + 1, batch.targets)  # the token before, and never another sequence's
    start = 100
    for (prompt, response), row in zip(shape, rows.tolist(), strict=True):
        assert row == [*range(start + prompt, start + prompt + response), *[0] * (batch.width - response)]
        start += prompt + response


@given(lengths=st.lists(st.integers(1, 600), min_size=1, max_size=40))
def test_buckets_hold_every_sequence_from_its_first_token_on(lengths: list[int]) -> None:
    layout = lay_out(lengths, CPU)
    assert layout.longest == max(lengths) and layout.offsets.dtype == torch.int32
    assert layout.offsets.tolist() == [0, *np.cumsum(lengths)]
    slots = {}  # where a row of a bucket begins -> its length
    begin = 0
    for count, length in layout.buckets:
        slots |= {begin + index * length: length for index in range(count)}
        begin += count * length
    places = torch.arange(sum(lengths)) if layout.places is None else layout.places
    found = []
    for start, length in zip(layout.offsets.tolist(), lengths, strict=False):
        row = places[start : start + length].tolist()
        assert row == list(range(row[0], row[0] + length)) and length <= slots[row[0]]
        found.append(row[0])
    assert sorted(found) == sorted(slots)
    wasted = sum(count * length**2 for count, length in layout.buckets) - sum(length**2 for length in lengths)
    assert wasted <= SPARE_PAIRS * len(layout.buckets)


def test_sequences_of_one_length_are_attended_to_as_they_lie() -> None:
    layout = lay_out([14] * 64, CPU)
    assert layout.buckets == ((64, 14),) and layout.places is None


def test_sorted_runs_of_one_length_far_apart_are_attended_to_as_they_lie() -> None:
    layout = lay_out([900, 400, 400, 20], CPU)
    assert layout.buckets == ((1, 900), (2, 400), (1, 20)) and layout.places is None


def test_a_batch_passes_whole_through_hooks_that_walk_arguments() -> None:
    """Sharded modules cast and move what they find in a forward call's arguments: token ids and places must stay integers."""
    batch = packed([(2, 3), (1, 0)])

    def cast(leaf: object) -> object:
        return leaf.to(torch.bfloat16) if isinstance(leaf, torch.Tensor) else leaf

    assert tree_map(cast, {"batch": batch})["batch"] is batch
