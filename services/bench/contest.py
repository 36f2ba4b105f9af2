"""Several ways to make the same optimizer update, timed in turns in the same processes: the machine's moods fall on all of them alike.

    measure(Contest(...), cases)  ->  spawns the ranks  ->  rank 0's figures of each case and way

A clock runs from a barrier to a barrier (ranks) and over synchronised kernels (GPU). Timed of this project is `Learner.train` on a step of
one update with behaviour log-probs as denominator: cutting and packing the rows, forward, objective, metrics, backward, clipping, AdamW.
Timed of the bare loop is the same without cutting, packing and metrics.
"""

from __future__ import annotations

import gc
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
from pydantic import TypeAdapter
from torch.multiprocessing.spawn import ProcessException

from actors.errors import GmpoError
from actors.learner.batching import micro_batches, pieces
from actors.types import BatchTotals, Row, TrainBatch
from services.bench.lengths import make_rows, share_out
from services.bench.shapes import SHAPES

LR, MAX_GRAD_NORM = 1e-6, 1.0
AGREEMENT = {"float32": 1e-3, "bfloat16": 5e-2}
"""Greatest relative difference of the ways' first gradient norms: more would mean that they do different work."""

Update = Callable[[], tuple[float, float]]
"""Makes one optimizer step; (this rank's loss or the whole one, gradient norm over all parameters)."""


@dataclass(frozen=True, slots=True)
class Contest:
    """Who competes, and on what."""

    model: str
    ways: tuple[str, ...]  # gmpo; bare_alone, bare_fsdp2, bare_ddp; padded_alone, ...; sorted_alone, ...
    ranks: int
    device: str
    dtype: str
    backend: str  # of the way gmpo: "fsdp2" or "deepspeed"
    activation_checkpointing: bool
    compile: bool
    threads: int  # of one rank
    repeats: int
    seed: int


@dataclass(frozen=True, slots=True)
class Case:
    """One batch: (prompt, response) lengths of all ranks' rows."""

    name: str
    pairs: tuple[tuple[int, int], ...]
    micro_batch_tokens: int
    row_tokens: int | None = None  # where all rows are of one length

    @property
    def tokens(self) -> int:
        """Tokens of the update, over all ranks."""
        return sum(prompt + response for prompt, response in self.pairs)


@dataclass(frozen=True, slots=True)
class Measured:
    """What one way took on one case."""

    case: str
    way: str
    seconds: tuple[float, ...]  # of one update, a repeat each
    cpu_seconds: tuple[float, ...]  # of rank 0's threads: a busy machine changes them less
    grad_norm: float  # of its first update
    micro_batches: int  # of rank 0
    filling: float  # padding, as a share of the tokens computed on rank 0
    peak_memory_gib: float | None  # greatest of rank 0's GPU, all ways' weights included


_MEASURED = TypeAdapter(list[Measured])
MEASURED_FILE = "measured.json"


def measure(contest: Contest, cases: Sequence[Case]) -> list[Measured]:
    """Run the contest in fresh processes, one a rank. GmpoError if a rank fails, or the ways disagree on the gradient."""
    with tempfile.TemporaryDirectory(prefix="gmpo-bench-") as directory:
        try:  # a failing rank takes the others with it, and none outlives this process
            torch.multiprocessing.spawn(_rank, (contest, tuple(cases), directory), nprocs=contest.ranks)
        except ProcessException as error:
            raise GmpoError(f"bench learner, a rank failed: {str(error).strip().splitlines()[-1]}") from error
        return _MEASURED.validate_json((Path(directory) / MEASURED_FILE).read_bytes())


def _rank(rank: int, contest: Contest, cases: tuple[Case, ...], directory: str) -> None:
    torch.set_num_threads(contest.threads)
    device = torch.device("cuda", rank) if contest.device == "cuda" else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    store = dist.FileStore(os.path.join(directory, "store"), contest.ranks)
    kind: dict[str, Any] = {"backend": "nccl", "device_id": device} if device.type == "cuda" else {"backend": "gloo"}
    dist.init_process_group(**kind, store=store, rank=rank, world_size=contest.ranks)
    try:
        competitors = {way: _competitor(way, contest, device) for way in contest.ways}
        found = _compete(competitors, cases, contest, device)
        if rank == 0:
            (Path(directory) / MEASURED_FILE).write_bytes(_MEASURED.dump_json(found))
    finally:
        dist.destroy_process_group()


@dataclass(frozen=True, slots=True)
class Ready:
    """A way with a case laid out."""

    update: Update
    micro_batches: int
    filling: float


Competitor = Callable[[Case, Sequence[Row]], Ready]


def _competitor(way: str, contest: Contest, device: torch.device) -> Competitor:
    model = SHAPES[contest.model].build(seed=contest.seed)
    if way == "gmpo":
        return _project(model, contest, device)
    return _bare(model, way, contest, device)


def _project(model: Any, contest: Contest, device: torch.device) -> Competitor:
    from actors.learner import backends
    from actors.learner.config import LearnerConfig
    from actors.learner.learner import Learner, LearnerSpec

    def config(micro_batch_tokens: int) -> LearnerConfig:
        return LearnerConfig.model_validate(
            {
                "ranks": contest.ranks,
                "updates_per_step": 1,
                "denominator": "behaviour",
                "max_grad_norm": MAX_GRAD_NORM,
                "optimizer": {"lr": LR},
                "backend": {"type": contest.backend},
                "compile": contest.compile,
                "activation_checkpointing": contest.activation_checkpointing,
                "micro_batch_tokens": micro_batch_tokens,
            }
        )

    backend = backends.build(model, config(1), dtype=contest.dtype, device=device)

    def ready(case: Case, rows: Sequence[Row]) -> Ready:
        learner = Learner(backend, LearnerSpec(config(case.micro_batch_tokens), temperature=1.0, total_updates=1))
        batch = TrainBatch(1, tuple(rows), (BatchTotals(len(case.pairs), sum(response for _, response in case.pairs)),))

        def update() -> tuple[float, float]:
            metrics = learner.train(batch).metrics
            return metrics["learner/loss"], metrics["learner/grad_norm"]

        return Ready(update, pieces(rows, case.micro_batch_tokens), 0.0)

    return ready


def _bare(model: Any, way: str, contest: Contest, device: torch.device) -> Competitor:
    from services.bench.bare import BareLoop, Parallel
    from services.bench.layouts import even_out, packed, padded, rectangles

    layout, parallel = way.split("_")
    if contest.activation_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.train()
    if contest.compile:
        for layer in model.get_decoder().layers:
            layer.compile()
    loop = BareLoop(
        model, cast(Parallel, parallel), dtype=contest.dtype, device=device, ranks=contest.ranks, lr=LR, max_grad_norm=MAX_GRAD_NORM
    )

    def ready(case: Case, rows: Sequence[Row]) -> Ready:
        if layout == "bare":
            count = _most(pieces(rows, case.micro_batch_tokens), device)
            batches = [packed(micro) for micro in micro_batches(rows, count, device)]
        else:
            order = sorted(rows, key=lambda row: len(row.token_ids)) if layout == "sorted" else rows
            parts = rectangles(order, case.micro_batch_tokens)
            batches = [padded(part, device) for part in even_out(parts, _most(len(parts), device))]
        loop.choose_head(batches[0])
        computed = sum(batch.token_ids.numel() for batch in batches)
        filling = 1 - sum(len(row.token_ids) for row in rows) / computed
        return Ready(lambda: loop.update(batches, len(case.pairs)), len(batches), filling)

    return ready


def _compete(competitors: Mapping[str, Competitor], cases: Sequence[Case], contest: Contest, device: torch.device) -> list[Measured]:
    """All cases and ways in turns; each round begins with another of them."""
    starters = {(case, way): competitor(case, _my_rows(case, contest)) for case in cases for way, competitor in competitors.items()}
    norms = {starter: ready.update()[1] for starter, ready in starters.items()}  # warms up as well
    for case in cases:
        _check_agreement(case, {way: norm for (at, way), norm in norms.items() if at == case}, AGREEMENT[contest.dtype])
    clocks: dict[tuple[Case, str], list[Clocked]] = {starter: [] for starter in starters}
    order = list(starters)
    for repeat in range(contest.repeats):
        turn = repeat % len(order)
        for starter in order[turn:] + order[:turn]:
            clocks[starter].append(_timed(starters[starter].update, device))
    return [
        Measured(
            case=case.name,
            way=way,
            seconds=tuple(clock.seconds for clock in clocks[case, way]),
            cpu_seconds=tuple(clock.cpu_seconds for clock in clocks[case, way]),
            grad_norm=norms[case, way],
            micro_batches=ready.micro_batches,
            filling=ready.filling,
            peak_memory_gib=max(clock.peak_gib for clock in clocks[case, way]) if device.type == "cuda" else None,
        )
        for (case, way), ready in starters.items()
    ]


def _my_rows(case: Case, contest: Contest) -> list[Row]:
    rows = make_rows(list(case.pairs), SHAPES[contest.model].vocabulary, np.random.default_rng(contest.seed))
    return share_out(rows, contest.ranks)[dist.get_rank()]


@dataclass(frozen=True, slots=True)
class Clocked:
    """One update."""

    seconds: float  # from when all ranks are ready until all have ended
    cpu_seconds: float  # of this rank
    peak_gib: float  # GPU memory; 0 on a CPU


def _timed(update: Update, device: torch.device) -> Clocked:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    _meet(device)
    began, began_cpu = time.perf_counter(), time.process_time()
    update()
    _meet(device)
    ended, ended_cpu = time.perf_counter(), time.process_time()
    return Clocked(ended - began, ended_cpu - began_cpu, torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else 0.0)


def _meet(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
    if dist.get_world_size() > 1:
        dist.barrier()


def _most(count: int, device: torch.device) -> int:
    """The greatest count of any rank."""
    counts = torch.tensor(count, device=device)
    dist.all_reduce(counts, dist.ReduceOp.MAX)
    return int(counts)


def _check_agreement(case: Case, norms: Mapping[str, float], bound: float) -> None:
    first = next(iter(norms.values()))
    if not all(abs(norm - first) <= bound * first for norm in norms.values()):  # nor where one is not a number
        found = ", ".join(f"{way} {norm:.6g}" for way, norm in norms.items())
        raise GmpoError(f"bench learner, {case.name}: the ways do not make the same update; gradient norms: {found}")
