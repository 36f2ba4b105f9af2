"""One optimizer batch has one loss and one gradient: cut into 1, 2, 3, 5 or 8 unequal micro-batches, shuffled, packed or padded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from actors.learner.backends import build as build_backend
from actors.learner.batching import micro_batches
from actors.learner.config import LearnerConfig
from actors.learner.objectives import BatchTotals, Objective, PolicyTerms, build
from actors.types import Row
from tests.learning import rows, totals
from tests.tiny_model import build_model

pytestmark = pytest.mark.usefixtures("single_rank")

OBJECTIVES: list[dict[str, Any]] = [
    {"type": "gmpo"},
    {"type": "gmpo", "clip": "sequence"},
    {"type": "gmpo", "clip": "none", "length_normalized": False},
    {"type": "pmpo", "power": -1.0},
    {"type": "grpo"},
    {"type": "dr_grpo", "max_length": 30},
    {"type": "dapo"},
    {"type": "gspo"},
    {"type": "cispo"},
    {"type": "sapo"},
    {"type": "ppo"},
]
CPU = torch.device("cpu")


class Batch:
    """The rows of one update and the ways to take their gradient."""

    def __init__(self) -> None:
        self.rows = rows()
        self.totals: BatchTotals = totals(self.rows)[0]
        self.backend = build_backend(build_model(), LearnerConfig(), dtype="float32", device=CPU)
        self.plain = build_model()

    def packed(self, objective: Objective, pieces: Sequence[Sequence[Row]]) -> tuple[torch.Tensor, float]:
        """(gradient, loss) from one packed pass a piece."""
        loss = 0.0
        for index, piece in enumerate(pieces):
            (micro,) = micro_batches(piece, 1, CPU)
            scores = self.backend.score(micro.batch, 1.0)
            share = objective(PolicyTerms(scores.logprobs, micro.behaviour, micro.advantages, micro.mask), self.totals).loss
            self.backend.backward(share, last=index == len(pieces) - 1)
            loss += float(share.detach())
        parameters = self.backend._scorer.parameters()  # type: ignore[attr-defined]
        gradient = torch.cat([parameter.grad.full_tensor().flatten() for parameter in parameters])
        self.backend.discard()
        return gradient, loss

    def padded(self, objective: Objective) -> tuple[torch.Tensor, float]:
        """(gradient, loss) by transformers alone: right-padded rows, an attention mask, all logits."""
        longest, width = max(len(row.token_ids) for row in self.rows), max(len(row.mask) for row in self.rows)
        ids, attention = (torch.zeros(len(self.rows), longest, dtype=torch.long) for _ in range(2))
        old, mask = torch.zeros(len(self.rows), width), torch.zeros(len(self.rows), width, dtype=torch.bool)
        places = torch.zeros(len(self.rows), width, dtype=torch.long)
        for index, row in enumerate(self.rows):
            ids[index, : len(row.token_ids)] = torch.from_numpy(row.token_ids)
            attention[index, : len(row.token_ids)] = 1
            old[index, : len(row.mask)] = torch.from_numpy(row.logprobs)
            mask[index, : len(row.mask)] = True
            places[index, : len(row.mask)] = torch.arange(row.prompt_length, len(row.token_ids))
        logits = self.plain(input_ids=ids, attention_mask=attention).logits.log_softmax(-1)
        scored = logits[:, :-1].gather(-1, ids[:, 1:, None]).squeeze(-1).gather(1, (places - 1).clamp(min=0))
        advantages = torch.tensor([row.advantage for row in self.rows])
        self.plain.zero_grad()
        loss = objective(PolicyTerms(scored, old, advantages, mask), self.totals).loss
        loss.backward()
        return torch.cat([parameter.grad.flatten() for parameter in self.plain.parameters() if parameter.grad is not None]), float(
            loss.detach()
        )

    def scale(self, objective: Objective) -> float:
        """Sum of |terms| of the loss: each response on its own."""
        with torch.no_grad():
            parts = [micro_batches([row], 1, CPU)[0] for row in self.rows]
            terms = [
                PolicyTerms(self.backend.score(part.batch, 1.0).logprobs, part.behaviour, part.advantages, part.mask) for part in parts
            ]
            return sum(abs(float(objective(term, self.totals).loss)) for term in terms)


@pytest.fixture(scope="module")
def batch(single_rank: None) -> Batch:
    return Batch()


@pytest.mark.parametrize("config", OBJECTIVES, ids=lambda config: "-".join(map(str, config.values())))
def test_however_it_is_cut_a_batch_has_one_loss_and_one_gradient(batch: Batch, config: dict[str, Any]) -> None:
    objective, random = build(config), np.random.default_rng(1)
    gradient, loss = batch.packed(objective, [batch.rows])
    scale = batch.scale(objective)
    found = [batch.padded(objective)]
    for count in (1, 2, 3, 5, 8):
        order = random.permutation(len(batch.rows))
        edges = np.sort(random.choice(np.arange(1, len(order)), size=count - 1, replace=False))
        found.append(batch.packed(objective, [[batch.rows[index] for index in piece] for piece in np.split(order, edges)]))
    for other, other_loss in found:
        assert abs(other_loss - loss) <= 1e-5 * scale
        assert torch.linalg.vector_norm(other - gradient) <= 1e-5 * torch.linalg.vector_norm(gradient)
