"""A causal language model as a scorer of responses: rows in, log-probs of response tokens out, padded to a rectangle.

Right padding needs no attention mask: a causal model never looks at what comes after, and padded positions are not scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from actors.modeling.logprobs import TokenScores, score_tokens
from actors.types import IntArray


@dataclass(frozen=True, slots=True)
class Rectangle:
    """Rows laid out for one forward pass."""

    token_ids: torch.Tensor  # [N, L] int64, right-padded with 0
    prompt_lengths: torch.Tensor  # [N] int64
    lengths: torch.Tensor  # [N] int64, response tokens
    width: int  # T, the longest response

    @property
    def mask(self) -> torch.Tensor:
        """True where a response token stands: [N, T] bool."""
        return torch.arange(self.width, device=self.lengths.device)[None, :] < self.lengths[:, None]


def rectangle(sequences: Sequence[IntArray], prompt_lengths: Sequence[int], device: torch.device) -> Rectangle:
    """Pad sequences ([P + T] each) to one length."""
    longest = max(len(sequence) for sequence in sequences)
    token_ids = np.zeros((len(sequences), longest), dtype=np.int64)
    for row, sequence in enumerate(sequences):
        token_ids[row, : len(sequence)] = sequence
    lengths = [len(sequence) - prompt for sequence, prompt in zip(sequences, prompt_lengths, strict=True)]
    return Rectangle(
        torch.from_numpy(token_ids).to(device),
        torch.tensor(prompt_lengths, device=device),
        torch.tensor(lengths, device=device),
        max(1, *lengths),
    )


class Scorer(nn.Module):
    """Wraps a Hugging Face causal model so that one forward call yields token scores and never all logits.

    The output layer is applied inside this module's forward, where a sharded model's parameters are whole.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Rectangle, temperature: float) -> TokenScores:
        """Scores of the response tokens: [N, T] each, 0 where the mask is False."""
        positions = torch.arange(batch.token_ids.shape[1], device=batch.token_ids.device).expand_as(batch.token_ids)
        hidden = self.model.get_decoder()(input_ids=batch.token_ids, position_ids=positions, use_cache=False).last_hidden_state
        mask = batch.mask
        rows, columns = mask.nonzero(as_tuple=True)
        places = batch.prompt_lengths[rows] + columns
        flat = score_tokens(
            hidden[rows, places - 1], self.model.get_output_embeddings().weight, batch.token_ids[rows, places], temperature=temperature
        )
        index = (rows, columns)
        return TokenScores(*(torch.zeros(mask.shape, device=values.device).index_put(index, values) for values in flat))
