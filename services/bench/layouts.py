"""The bare loop's micro-batches: rows behind one another without padding, or side by side and padded to the longest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from actors.types import Row


@dataclass(frozen=True, slots=True)
class Layout:
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


def packed(rows: Sequence[Row], device: torch.device) -> Layout:
    """Rows behind one another."""
    lengths = [len(row.token_ids) for row in rows]
    starts = np.cumsum([0, *lengths[:-1]])
    tokens = torch.from_numpy(np.concatenate([row.token_ids for row in rows]).astype(np.int64))[None]
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    return _layout(rows, tokens, positions, starts, tuple(lengths), device)


def padded(rows: Sequence[Row], device: torch.device) -> Layout:
    """Rows side by side, filled up on the right. A causal model needs no mask for that: nothing that counts looks at the filling."""
    longest = max(len(row.token_ids) for row in rows)
    tokens = torch.zeros((len(rows), longest), dtype=torch.int64)
    for line, row in zip(tokens, rows, strict=True):
        line[: len(row.token_ids)] = torch.from_numpy(row.token_ids.astype(np.int64))
    positions = torch.arange(longest).expand_as(tokens)
    return _layout(rows, tokens, positions, np.arange(len(rows)) * longest, None, device)


def cut(rows: Sequence[Row], budget: int) -> list[list[Row]]:
    """Rows in as few parts of at most `budget` tokens as filling one after the other gives, the longest rows first."""
    parts: list[list[Row]] = []
    for row in sorted(rows, key=lambda row: -len(row.token_ids)):
        room = (part for part in parts if sum(len(other.token_ids) for other in part) + len(row.token_ids) <= budget)
        part = next(room, None)
        if part is None:
            parts.append(part := [])
        part.append(row)
    return parts


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


def _layout(
    rows: Sequence[Row],
    token_ids: torch.Tensor,
    positions: torch.Tensor,
    starts: Sequence[int],
    lengths: tuple[int, ...] | None,
    device: torch.device,
) -> Layout:
    counts = torch.tensor([len(row.mask) for row in rows])
    first = [start + row.prompt_length - 1 for start, row in zip(starts, rows, strict=True)]
    places = torch.cat([torch.arange(int(count)) + int(start) for start, count in zip(first, counts, strict=True)])
    return Layout(
        token_ids=token_ids.to(device),
        positions=positions.to(device),
        lengths=lengths,
        places=places.to(device),
        targets=token_ids.flatten()[places + 1].to(device),
        owners=torch.arange(len(rows)).repeat_interleave(counts).to(device),
        old_logprobs=torch.from_numpy(np.concatenate([row.logprobs for row in rows])).to(device),
        counts=counts.to(device, torch.float32),
        advantages=torch.tensor([row.advantage for row in rows], dtype=torch.float32, device=device),
    )
