"""The gradient does not depend on how a batch was split: over ranks, or over micro-batches."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from actors.learner.backends.fsdp2 import Fsdp2Backend
from actors.learner.config import AdamWConfig, Fsdp2Config, LearnerConfig
from actors.learner.learner import Learner, LearnerSpec
from actors.modeling.config import TinyPolicy
from actors.modeling.tiny import make_model
from actors.types import BatchTotals, Row, TrainBatch

pytestmark = pytest.mark.integration
ROWS, UPDATES = 24, 3


class RecordingBackend(Fsdp2Backend):
    """Keeps the whole gradient of every update, as it stands before clipping."""

    gradients: list[torch.Tensor]

    def step(self, lr: float, max_grad_norm: float) -> float:
        """See Fsdp2Backend."""
        self.gradients.append(torch.cat([parameter.grad.full_tensor().flatten() for parameter in self._scorer.parameters()]))
        return super().step(lr, max_grad_norm)


def rows() -> list[Row]:
    """Responses of 1 to 30 tokens after prompts of 3 to 12, with behaviour log-probs that put some ratios beyond the clip."""
    random = np.random.default_rng(0)
    made = []
    for index in range(ROWS):
        prompt, length = int(random.integers(3, 12)), int(random.integers(1, 30))
        made.append(
            Row(
                token_ids=random.integers(0, 256, prompt + length).astype(np.int32),
                prompt_length=prompt,
                mask=np.ones(length, dtype=np.bool_),
                logprobs=(-5.6 + random.normal(0, 0.5, length)).astype(np.float32),
                ref_logprobs=None,
                advantage=float(random.normal()),
                update=index % UPDATES,
                current=np.ones(length, dtype=np.bool_),
            )
        )
    return made


def totals(every: Sequence[Row]) -> tuple[BatchTotals, ...]:
    """Counts over all ranks."""
    parts = [[row for row in every if row.update == update] for update in range(UPDATES)]
    return tuple(BatchTotals(len(part), sum(int(row.mask.sum()) for row in part)) for part in parts)


def train(rank: int, ranks: int, budget: int, store: str, out: Any) -> None:
    """One rank's process: learn from every `ranks`-th row, put (gradients, loss) of rank 0 into `out`."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(store, ranks), rank=rank, world_size=ranks)
    backend = RecordingBackend(make_model(TinyPolicy()), Fsdp2Config(), AdamWConfig(lr=1e-3), dtype="float32", device=torch.device("cpu"))
    backend.gradients = []
    config = LearnerConfig(ranks=ranks, updates_per_step=UPDATES, micro_batch_tokens=budget, denominator="behaviour")
    learner = Learner(backend, LearnerSpec(config, temperature=1.0, total_updates=UPDATES))
    every = rows()
    # Uneven shares, and one update in which the last rank has nothing at all.
    mine = [row for index, row in enumerate(every) if (index % 5 == 0 and row.update != 0) == (rank == ranks - 1)] if ranks > 1 else every
    result = learner.train(TrainBatch(1, tuple(replace(row) for row in mine), totals(every)))
    if rank == 0:
        out.put((torch.stack(backend.gradients).numpy(), result.metrics["learner/loss"], result.metrics["learner/clip_fraction"]))
    dist.destroy_process_group()


def run(tmp_path: Path, ranks: int, budget: int) -> tuple[np.ndarray[Any, Any], float, float]:
    """Train on `ranks` processes."""
    context = multiprocessing.get_context("spawn")
    out = context.Queue()
    store = str(tmp_path / f"store-{ranks}-{budget}")
    processes = [context.Process(target=train, args=(rank, ranks, budget, store, out)) for rank in range(ranks)]
    for process in processes:
        process.start()
    found: tuple[np.ndarray[Any, Any], float, float] = out.get(timeout=120)
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    return found


def test_two_ranks_and_any_micro_batches_give_the_gradient_of_one(tmp_path: Path) -> None:
    whole, loss, clipped = run(tmp_path, ranks=1, budget=100_000)
    assert clipped > 0.01
    for ranks, budget in ((2, 100_000), (2, 64), (1, 64)):
        found, found_loss, found_clipped = run(tmp_path, ranks, budget)
        for ours, theirs in zip(found, whole, strict=True):
            assert np.linalg.norm(ours - theirs) <= 1e-5 * np.linalg.norm(theirs)
        assert found_loss == pytest.approx(loss, rel=1e-5)
        assert found_clipped == pytest.approx(clipped, rel=1e-6)
