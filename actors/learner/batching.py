"""From references to tensors: a rank's rows, cut into micro-batches of similar lengths within a token budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from actors.modeling.scoring import Rectangle, rectangle
from actors.types import RolloutGroup, Row, TrainBatch, Work


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

    batch: Rectangle
    mask: torch.Tensor  # bool
    behaviour: torch.Tensor
    reference: torch.Tensor | None
    current: torch.Tensor  # bool
    advantages: torch.Tensor  # [N]


def micro_batches(rows: Sequence[Row], budget: int, device: torch.device) -> list[MicroBatch]:
    """Cut rows into rectangles of at most `budget` tokens, padding included; a longer row is a rectangle alone."""
    cut: list[list[Row]] = []
    for row in sorted(rows, key=lambda row: -len(row.token_ids)):
        if not cut or len(cut[-1][0].token_ids) * (len(cut[-1]) + 1) > budget:
            cut.append([])
        cut[-1].append(row)
    return [_micro_batch(part, device) for part in cut]


def empty_micro_batch(device: torch.device) -> MicroBatch:
    """One that adds nothing to loss or metrics: ranks with fewer micro-batches run it, to stay in the collectives."""
    nothing = np.zeros(1, dtype=np.float32)
    row = Row(np.zeros(2, dtype=np.int32), 1, np.zeros(1, dtype=np.bool_), nothing, nothing, 0.0, 0, np.zeros(1, dtype=np.bool_))
    return _micro_batch([row], device)


def _micro_batch(rows: Sequence[Row], device: torch.device) -> MicroBatch:
    batch = rectangle([row.token_ids for row in rows], [row.prompt_length for row in rows], device)
    references = [row.ref_logprobs for row in rows if row.ref_logprobs is not None]
    return MicroBatch(
        batch=batch,
        mask=_pad([row.mask for row in rows], batch.width, torch.bool).to(device),
        behaviour=_pad([row.logprobs for row in rows], batch.width, torch.float32).to(device),
        reference=_pad(references, batch.width, torch.float32).to(device) if len(references) == len(rows) else None,
        current=_pad([row.current for row in rows], batch.width, torch.bool).to(device),
        advantages=torch.tensor([row.advantage for row in rows], dtype=torch.float32, device=device),
    )


def _pad(arrays: Sequence[np.ndarray], width: int, dtype: torch.dtype) -> torch.Tensor:
    padded = torch.zeros((len(arrays), width), dtype=dtype)
    for row, array in enumerate(arrays):
        padded[row, : len(array)] = torch.as_tensor(np.array(array), dtype=dtype)
    return padded
