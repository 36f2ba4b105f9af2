"""The bare loop's micro-batches: rows behind one another without padding, or side by side and padded to the longest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from actors.learner.batching import MicroBatch
from actors.types import Row


@dataclass(frozen=True, slots=True)
class Batch:
    """N rows laid out for one forward pass; M response tokens, in the order of the rows."""

    token_ids: torch.Tensor  # [R, L]: packed 1 x tokens, padded N x longest
    positions: torch.Tensor  # [R, L], from 0 in each row
    lengths: tuple[int, ...] | None  # [N] tokens of each packed row; None where each line is a row
    places: torch.Tensor  # [M] of the flattened R x L that predict a response token
    targets: torch.Tensor  # [M]
    owners: torch.Tensor  # [M] which row
    old_logprobs: torch.Tensor  # [M]
    counts: torch.Tensor  # [N] response tokens
    advantages: torch.Tensor  # [N]


def packed(micro: MicroBatch) -> Batch:
    """This project's own micro-batch, laid out for the bare loop: the same rows behind one another."""
    batch = micro.batch
    return Batch(
        token_ids=batch.token_ids[None],
        positions=batch.positions[None],
        lengths=batch.sequence_lengths,
        places=batch.predictors,
        targets=batch.targets,
        owners=torch.arange(len(batch.response_lengths), device=batch.response_lengths.device).repeat_interleave(batch.response_lengths),
        old_logprobs=micro.behaviour.flatten()[batch.cells],
        counts=batch.response_lengths.float(),
        advantages=micro.advantages,
    )


def padded(rows: Sequence[Row], device: torch.device) -> Batch:
    """Rows side by side, filled up on the right. A causal model needs no mask for that: nothing that counts looks at the filling."""
    longest = max(len(row.token_ids) for row in rows)
    tokens = torch.zeros((len(rows), longest), dtype=torch.int64)
    for line, row in zip(tokens, rows, strict=True):
        line[: len(row.token_ids)] = torch.from_numpy(row.token_ids.astype(np.int64))
    counts = torch.tensor([len(row.mask) for row in rows])
    places = torch.cat([torch.arange(len(row.mask)) + line * longest + row.prompt_length - 1 for line, row in enumerate(rows)])
    return Batch(
        token_ids=tokens.to(device),
        positions=torch.arange(longest, device=device).expand_as(tokens),
        lengths=None,
        places=places.to(device),
        targets=tokens.flatten()[places + 1].to(device),
        owners=torch.arange(len(rows)).repeat_interleave(counts).to(device),
        old_logprobs=torch.from_numpy(np.concatenate([row.logprobs for row in rows])).to(device),
        counts=counts.to(device, torch.float32),
        advantages=torch.tensor([row.advantage for row in rows], dtype=torch.float32, device=device),
    )


def rectangles(rows: Sequence[Row], budget: int) -> list[list[Row]]:
    """Rows in their order, cut where one more would make the padded rectangle larger than `budget` tokens."""
    parts: list[list[Row]] = []
    for row in rows:
        longest = max(len(other.token_ids) for other in [row, *(parts[-1] if parts else [])])
        if not parts or longest * (len(parts[-1]) + 1) > budget:
            parts.append([])
        parts[-1].append(row)
    return parts


def even_out(parts: list[list[Row]], count: int) -> list[list[Row]]:
    """The same rows in `count` parts: the parts with most rows are halved. Ranks need as many forward passes each."""
    while len(parts) < count:
        largest = max(range(len(parts)), key=lambda index: len(parts[index]))
        part = parts[largest]
        parts[largest : largest + 1] = [part[: len(part) // 2], part[len(part) // 2 :]]
    return parts
