"""Sequences laid end to end for one forward pass: no padding, and no sequence sees another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from actors.modeling.attention import Layout, lay_out
from actors.types import IntArray


@dataclass(frozen=True, slots=True)
class Packed:
    """N sequences of L tokens together, M of them response tokens, and where everything is: a forward pass looks for nothing.

    Not a pytree: hooks of sharding libraries that walk a module's arguments hand it on whole, its tensors in the type they have.
    """

    token_ids: torch.Tensor  # [L] int64
    positions: torch.Tensor  # [L] int64, from 0 in each sequence
    sequence_lengths: tuple[int, ...]  # [N] tokens, prompt and response
    response_lengths: torch.Tensor  # [N] int64, response tokens
    width: int  # T, the longest response, at least 1
    layout: Layout  # for attention
    predictors: torch.Tensor  # [M] int64, places in the stream: the token before each response token
    targets: torch.Tensor  # [M] int64, the response tokens
    cells: torch.Tensor  # [M] int64, where each response token stands in a flat [N * T]

    @property
    def mask(self) -> torch.Tensor:
        """True where a response token stands: [N, T] bool."""
        return torch.arange(self.width, device=self.response_lengths.device)[None, :] < self.response_lengths[:, None]

    def spread(self, values: torch.Tensor) -> torch.Tensor:
        """Values of the response tokens [M], sequence by sequence, as [N, T]; 0 where no token stands. Differentiable."""
        shape = len(self.sequence_lengths), self.width
        flat = values.new_zeros(shape[0] * shape[1]).index_copy(0, self.cells, values)
        return flat.view(shape).clone()  # FSDP2 hangs its hooks on what a module returns, and warns of views


def pack(sequences: Sequence[IntArray], prompt_lengths: Sequence[int], device: torch.device) -> Packed:
    """Lay sequences [P + T] end to end, in their order. At least one; every prompt has a token, a response may have none."""
    sizes = np.asarray([len(sequence) for sequence in sequences], dtype=np.int64)
    prompts = np.asarray(prompt_lengths, dtype=np.int64)
    lengths = sizes - prompts
    starts = np.cumsum(sizes) - sizes
    width = max(1, int(lengths.max()))
    token_ids = np.concatenate(sequences).astype(np.int64)
    columns = _counted(lengths)
    places = np.repeat(starts + prompts, lengths) + columns
    cells = np.repeat(np.arange(len(sizes)) * width, lengths) + columns

    def tensor(array: NDArray[np.int64]) -> torch.Tensor:
        return torch.from_numpy(array).to(device)

    return Packed(
        token_ids=tensor(token_ids),
        positions=tensor(_counted(sizes)),
        sequence_lengths=tuple(sizes.tolist()),
        response_lengths=tensor(lengths),
        width=width,
        layout=lay_out(sizes.tolist(), device),
        predictors=tensor(places - 1),
        targets=tensor(token_ids[places]),
        cells=tensor(cells),
    )


def _counted(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """0, 1, ... length - 1 for each of the lengths, one after the other."""
    firsts = np.repeat(np.cumsum(lengths) - lengths, lengths)
    return np.arange(len(firsts)) - firsts
