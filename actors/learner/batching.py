"""From references to tensors: a rank's rows, cut into micro-batches of about as many tokens, within a budget."""

from __future__ import annotations

import bisect
import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from actors.modeling.packing import Packed, pack
from actors.types import BoolArray, FloatArray, RolloutGroup, Row, TrainBatch, Work


def assemble(work: Work, groups: Sequence[RolloutGroup]) -> TrainBatch:
    """A rank's rows of a step, from the groups it claimed."""
    rows = []
    for plan in work.rows:
        group = groups[plan.group]
        rollout = group.rollouts[plan.sample]
        current = np.zeros(len(rollout.token_ids), dtype=np.bool_)
        for span in rollout.spans:
            current[span.start : span.end] = span.version == work.step - 1
        rows.append(
            Row(
                token_ids=np.concatenate([group.prompt.token_ids, rollout.token_ids]),
                prompt_length=len(group.prompt.token_ids),
                mask=rollout.mask,
                logprobs=rollout.logprobs,
                ref_logprobs=group.ref_logprobs[plan.sample] if group.ref_logprobs else None,
                advantage=plan.advantage,
                update=plan.update,
                current=current,
            )
        )
    return TrainBatch(work.step, tuple(rows), work.totals)


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Rows of one forward pass, and what the objective needs beside the policy's own scores. All [N, T] unless said otherwise."""

    batch: Packed
    mask: torch.Tensor  # bool
    behaviour: torch.Tensor
    reference: torch.Tensor | None
    current: torch.Tensor  # bool
    advantages: torch.Tensor  # [N]


def pieces(rows: Sequence[Row], budget: int) -> int:
    """Least number of micro-batches by which `micro_batches` keeps within `budget` tokens each, a longer row alone; 0 for no rows.

    Any greater number keeps within it too: with more pieces to choose from, every row lands on one that is no fuller.
    """
    sizes = _sizes(rows)
    least = -(-sum(min(size, budget) for size in sizes) // budget)
    numbers = range(least, len(rows) + 1)
    return bisect.bisect_left(numbers, True, key=lambda count: _fits(_share(sizes, count), sizes, budget)) + numbers.start


def micro_batches(rows: Sequence[Row], count: int, device: torch.device) -> list[MicroBatch]:
    """Cut rows into `count` pieces of about as many tokens. Some are empty where rows are fewer: all ranks make the same number of passes,
    or they would wait for each other for ever."""
    return [_micro_batch([rows[index] for index in piece] or [_nothing()], device) for piece in _share(_sizes(rows), count)]


def _sizes(rows: Sequence[Row]) -> list[int]:
    return [len(row.token_ids) for row in rows]


def _share(sizes: Sequence[int], count: int) -> list[list[int]]:
    """Indices of each of `count` pieces: the longest first, each onto the lightest piece so far."""
    shares: list[list[int]] = [[] for _ in range(count)]
    loads = [(0, piece) for piece in range(count)]  # a heap
    for index in sorted(range(len(sizes)), key=lambda index: -sizes[index]):
        load, piece = loads[0]
        shares[piece].append(index)
        heapq.heapreplace(loads, (load + sizes[index], piece))
    return shares


def _fits(shares: Sequence[Sequence[int]], sizes: Sequence[int], budget: int) -> bool:
    return all(len(share) <= 1 or sum(sizes[index] for index in share) <= budget for share in shares)


def _nothing() -> Row:
    """A row that adds nothing to loss or metrics."""
    nothing = np.zeros(1, dtype=np.float32)
    return Row(np.zeros(2, dtype=np.int32), 1, np.zeros(1, dtype=np.bool_), nothing, nothing, 0.0, 0, np.zeros(1, dtype=np.bool_))


def _micro_batch(rows: Sequence[Row], device: torch.device) -> MicroBatch:
    batch = pack([row.token_ids for row in rows], [row.prompt_length for row in rows], device)
    references = [row.ref_logprobs for row in rows if row.ref_logprobs is not None]

    def spread(arrays: Sequence[BoolArray] | Sequence[FloatArray]) -> torch.Tensor:
        return batch.spread(torch.from_numpy(np.concatenate(arrays)).to(device))

    return MicroBatch(
        batch=batch,
        mask=spread([row.mask for row in rows]),
        behaviour=spread([row.logprobs for row in rows]),
        reference=spread(references) if len(references) == len(rows) else None,
        current=spread([row.current for row in rows]),
        advantages=torch.tensor([row.advantage for row in rows], dtype=torch.float32, device=device),
    )
