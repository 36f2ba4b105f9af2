"""A small learning problem on real parts: fixed rows for the tiny model, and the gradients that a learner group finds on them."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from actors.learner.backends.fsdp2 import Fsdp2Backend
from actors.learner.config import AdamWConfig, Fsdp2Config, LearnerConfig
from actors.learner.learner import Learner, LearnerSpec
from actors.modeling.config import TinyPolicy
from actors.modeling.tiny import make_model
from actors.types import BatchTotals, Row, TrainBatch

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


def train(rank: int, ranks: int, budget: int, device: str, store: str, out: Any) -> None:
    """One rank's process: learn from its share of the rows, put rank 0's (gradients, loss, clip fraction) into `out`."""
    torch.set_num_threads(1)
    dist.init_process_group("nccl" if device == "cuda" else "gloo", store=dist.FileStore(store, ranks), rank=rank, world_size=ranks)
    backend = RecordingBackend(make_model(TinyPolicy()), Fsdp2Config(), AdamWConfig(lr=1e-3), dtype="float32", device=torch.device(device))
    backend.gradients = []
    config = LearnerConfig(ranks=ranks, updates_per_step=UPDATES, micro_batch_tokens=budget, denominator="behaviour")
    learner = Learner(backend, LearnerSpec(config, temperature=1.0, total_updates=UPDATES))
    every = rows()
    # Uneven shares, and one update in which the last rank has nothing at all.
    mine = [row for index, row in enumerate(every) if (index % 5 == 0 and row.update != 0) == (rank == ranks - 1)] if ranks > 1 else every
    result = learner.train(TrainBatch(1, tuple(replace(row) for row in mine), totals(every)))
    if rank == 0:
        out.put((torch.stack(backend.gradients).cpu().numpy(), result.metrics["learner/loss"], result.metrics["learner/clip_fraction"]))
    dist.destroy_process_group()


def gradients(tmp_path: Path, *, ranks: int, budget: int, device: str = "cpu") -> tuple[np.ndarray[Any, Any], float, float]:
    """(whole gradient of each update [U, parameters], loss, clip fraction) of a group of `ranks` processes."""
    context = multiprocessing.get_context("spawn")
    out = context.Queue()
    store = str(tmp_path / f"store-{ranks}-{budget}-{device}")
    processes = [context.Process(target=train, args=(rank, ranks, budget, device, store, out)) for rank in range(ranks)]
    for process in processes:
        process.start()
    found: tuple[np.ndarray[Any, Any], float, float] = out.get(timeout=120)
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    return found
