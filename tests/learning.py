"""A small learning problem on real parts: fixed rows for the tiny model, and the gradients that a learner group finds on them."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from actors.learner import backends, checkpoint
from actors.learner.checkpoint import Waiting
from actors.learner.config import LearnerConfig
from actors.learner.learner import Learner, LearnerSpec
from actors.modeling.config import TinyPolicy
from actors.modeling.tiny import make_model
from actors.types import BatchTotals, Row, TrainBatch

ROWS = 24
BETA = 0.9
"""Decay of the optimizer's first moment: after one update from nothing it holds (1 - BETA) of the gradient."""


@dataclass(frozen=True, slots=True)
class Case:
    """One way to take one optimizer step on the same rows."""

    objective: str
    budget: int  # tokens of a micro-batch


@dataclass(frozen=True, slots=True)
class Found:
    """What the step was made of."""

    gradient: np.ndarray[Any, Any]  # [parameters], before clipping
    loss: float
    clip_fraction: float
    norm: float


def rows() -> list[Row]:
    """Responses of 1 to 30 tokens after prompts of 3 to 12, with behaviour log-probs that put some ratios beyond the clip."""
    random = np.random.default_rng(0)
    made = []
    for _ in range(ROWS):
        prompt, length = int(random.integers(3, 12)), int(random.integers(1, 30))
        made.append(
            Row(
                token_ids=random.integers(0, 256, prompt + length).astype(np.int32),
                prompt_length=prompt,
                mask=np.ones(length, dtype=np.bool_),
                logprobs=(-5.6 + random.normal(0, 0.5, length)).astype(np.float32),
                ref_logprobs=None,
                advantage=float(random.normal()),
                update=0,
                current=np.ones(length, dtype=np.bool_),
            )
        )
    return made


def totals(every: Sequence[Row]) -> tuple[BatchTotals, ...]:
    """Counts over all ranks."""
    return (BatchTotals(len(every), sum(int(row.mask.sum()) for row in every)),)


@contextmanager
def process_group(rank: int, ranks: int, device: str, store: str) -> Iterator[None]:
    """This process as one rank of a group on this machine."""
    torch.set_num_threads(1)
    dist.init_process_group("nccl" if device == "cuda" else "gloo", store=dist.FileStore(store, ranks), rank=rank, world_size=ranks)
    try:
        yield
    finally:
        dist.destroy_process_group()


def make_learner(device: str, **config: Any) -> Learner:
    """A learner of the tiny model, a function of its seed."""
    adamw = {"lr": 1e-3, "betas": (BETA, 0.95)}
    settings = LearnerConfig.model_validate(
        {"optimizer": adamw, "updates_per_step": 1, "denominator": "behaviour", "max_grad_norm": 1e9, **config}
    )
    backend = backends.build(make_model(TinyPolicy()), settings, dtype="float32", device=torch.device(device))
    return Learner(backend, LearnerSpec(settings, temperature=1.0, total_updates=1))


def share_of(every: Sequence[Row], rank: int, ranks: int) -> tuple[Row, ...]:
    """Uneven shares: of three ranks the last has nothing at all, of two it has a fifth."""
    if ranks == 1:
        return tuple(every)
    taker = min(1, ranks - 2)  # the rank that takes every fifth row
    return tuple(replace(row) for index, row in enumerate(every) if rank == (taker if index % 5 == 0 else 1 - taker))


def first_moments(learner: Learner) -> dict[str, torch.Tensor]:
    """Parameter name -> the optimizer's whole first moment; all ranks call it together."""
    mine: dict[str, torch.Tensor] = {}
    for name, state in learner.backend.snapshot()["optimizer"]["state"].items():
        moment = state["exp_avg"]
        mine[name.removeprefix("model.")] = (moment.full_tensor() if hasattr(moment, "full_tensor") else moment).cpu().clone()
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, mine)
    return {name: moment for part in everyone for name, moment in part.items()}


def run_cases(rank: int, ranks: int, backend: Mapping[str, Any], cases: Sequence[Case], device: str, store: str, out: Any) -> None:
    """One rank's process: one optimizer step per case, each by a fresh learner."""
    every = rows()
    with process_group(rank, ranks, device, store):
        for case in cases:
            learner = make_learner(device, backend=backend, objective={"type": case.objective}, micro_batch_tokens=case.budget)
            metrics = learner.train(TrainBatch(1, share_of(every, rank, ranks), totals(every))).metrics
            moments = first_moments(learner)
            if rank == 0:
                gradient = torch.cat([moments[name].flatten() for name in sorted(moments)]) / (1 - BETA)
                out.put(
                    (case, Found(gradient.numpy(), metrics["learner/loss"], metrics["learner/clip_fraction"], metrics["learner/grad_norm"]))
                )


def gradients(tmp_path: Path, *, ranks: int, backend: Mapping[str, Any], cases: Sequence[Case], device: str = "cpu") -> dict[Case, Found]:
    """What a group of `ranks` processes finds for each case."""
    context = multiprocessing.get_context("spawn")
    out = context.Queue()
    store = str(tmp_path / f"store-{ranks}-{backend['type']}-{backend.get('stage')}-{device}")
    arguments = (ranks, backend, cases, device, store, out)
    processes = [context.Process(target=run_cases, args=(rank, *arguments)) for rank in range(ranks)]
    for process in processes:
        process.start()
    found = dict(out.get(timeout=180) for _ in cases)
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    return found


def run_two_steps(rank: int, ranks: int, backend: Mapping[str, Any], root: str, resume: bool, store: str, out: Any) -> None:
    """One rank's process: two steps with a checkpoint between them, or the second step alone from that checkpoint."""
    every = rows()
    batch = TrainBatch(1, share_of(every, rank, ranks), totals(every))
    with process_group(rank, ranks, "cpu", store):
        learner = make_learner("cpu", backend=backend, optimizer={"lr": 1e-3, "schedule": "linear"}, denominator="recomputed")
        if resume:
            checkpoint.read(root, 1, learner, rank=rank)
        else:
            learner.train(batch)
            assert dist.group.WORLD is not None
            checkpoint.write(root, checkpoint.take(learner, step=1, rank=rank, waiting=Waiting()), dist.group.WORLD)
            dist.barrier()
        metrics = learner.train(replace(batch, step=2)).metrics
        parameters = torch.cat([tensor.flatten() for tensor in learner.backend.tensors()]).cpu()
        if rank == 0:
            out.put((parameters.numpy(), metrics["learner/loss"]))


def two_steps(tmp_path: Path, *, ranks: int, backend: Mapping[str, Any], resume: bool = False) -> tuple[np.ndarray[Any, Any], float]:
    """(policy after two steps [parameters], loss of the second), unbroken or resumed from what an unbroken run left in `tmp_path`."""
    context = multiprocessing.get_context("spawn")
    out = context.Queue()
    store = str(tmp_path / f"store-{ranks}-{resume}")
    arguments = (ranks, backend, str(tmp_path / "checkpoints"), resume, store, out)
    processes = [context.Process(target=run_two_steps, args=(rank, *arguments)) for rank in range(ranks)]
    for process in processes:
        process.start()
    found: tuple[np.ndarray[Any, Any], float] = out.get(timeout=180)
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    return found
