"""`gmpo bench learner`: tokens per second of one optimizer update, beside a bare torch loop on the same packed batch and beside padding.

The ways (those with ranks > 1 once under FSDP2 and once under DDP; the faster counts):
gmpo      this project's learner and backend
bare      a plain loop on the same rows, packed
padded    the same loop on rectangles of rows as they come, padded to the longest: what packing is held against
sorted    the same, rows sorted by length first: a stronger padding, for information

With `row_tokens` rows are all of one length and fill a micro-batch each, two to an update, as in prime-rl's published benchmarks.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch

from actors.errors import ConfigError
from services.bench.contest import Case, Contest, Measured, measure
from services.bench.lengths import rollout_lengths
from services.bench.results import Aim, Report, Row, Spread, device_name, ratios
from services.bench.shapes import PUBLISHED, SHAPES, peak_flops

BARE_AIM, PADDED_AIM, MFU_AIM, PUBLISHED_AIM = 0.97, 1.3, 0.45, 2.0
MFU_AIM_AT = 16_384
"""Tokens of a row at which MFU_AIM is held against."""
WAYS = ("gmpo", "bare", "padded", "sorted")


@dataclass(frozen=True, slots=True)
class Settings:
    """What is measured. `for_model` gives each model its own defaults."""

    model: str = "30m"
    tokens: int = 8_192  # of an update, on each rank
    length_divisor: int = 4  # rollouts this many times shorter, to keep an update of a CPU in seconds; the spread stays
    row_tokens: tuple[int, ...] = ()  # instead of rollouts: a batch of rows of each of these lengths
    micro_batch_tokens: int | None = None  # None: all of an update in one
    ways: tuple[str, ...] = WAYS
    ranks: int = 1
    device: str = "cpu"
    dtype: str = "float32"
    backend: str = "fsdp2"
    activation_checkpointing: bool = False
    compile: bool = False
    threads: int | None = None  # of one rank; None: all CPUs shared among the ranks
    repeats: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        if unknown := set(self.ways) - set(WAYS):
            raise ConfigError(f"bench learner: no way named {', '.join(sorted(unknown))}; there are {', '.join(WAYS)}")
        if self.model not in SHAPES:
            raise ConfigError(f"bench learner: no model named {self.model}; there are {', '.join(SHAPES)}")
        if self.device == "cuda" and torch.cuda.device_count() < self.ranks:
            raise ConfigError(f"bench learner: {self.ranks} ranks on {torch.cuda.device_count()} GPUs; choose --device cpu or fewer ranks")

    @property
    def contest(self) -> Contest:
        """Who competes."""
        bare = ("alone",) if self.ranks == 1 else ("fsdp2", "ddp")
        ways = [found for way in self.ways for found in ([way] if way == "gmpo" else [f"{way}_{parallel}" for parallel in bare])]
        return Contest(
            model=self.model,
            ways=tuple(ways),
            ranks=self.ranks,
            device=self.device,
            dtype=self.dtype,
            backend=self.backend,
            activation_checkpointing=self.activation_checkpointing,
            compile=self.compile,
            threads=self.threads or max(1, (os.cpu_count() or 1) // self.ranks),
            repeats=self.repeats,
            seed=self.seed,
        )

    @property
    def cases(self) -> list[Case]:
        """Batches over all ranks."""
        if self.row_tokens:
            return [Case(f"{length} tokens a row", ((1, length - 1),) * 2 * self.ranks, length, length) for length in self.row_tokens]
        pairs = rollout_lengths(self.tokens * self.ranks, np.random.default_rng(self.seed), divisor=self.length_divisor)
        return [Case("rollouts", tuple(pairs), self.micro_batch_tokens or self.tokens + max(map(sum, pairs)))]


MODEL_DEFAULTS: Mapping[str, Mapping[str, object]] = {
    "qwen3-0.6b": {
        "row_tokens": (16_384, 65_536),
        "ways": ("gmpo",),
        "device": "cuda",
        "dtype": "bfloat16",
        "activation_checkpointing": True,
        "compile": True,
    }
}
"""Where a model's defaults differ: what was published for Qwen3-0.6B on one H100."""


def run(settings: Settings) -> Report:
    """Measure, and hold the figures against the aims."""
    cases, device = settings.cases, device_name(settings.device)
    measured = measure(settings.contest, cases)
    rows: list[Row] = []
    found: dict[str, Spread] = {}
    for case in cases:
        of_case = [one for one in measured if one.case == case.name]
        rows += [_row(one, case, settings, device) for one in of_case] + _published(case, settings)
        found |= _ratios(of_case, case, settings, device)
    return Report(
        bench="learner",
        device=device,
        settings=asdict(settings) | {"threads": settings.contest.threads, "sequences": [len(case.pairs) for case in cases]},
        rows=rows,
        ratios=found,
        aims=[aim for case in cases for aim in _aims(found, case)],
        notes=[
            "one optimizer update: forward, GMPO, backward, clipping, fused AdamW; tokens are prompt and response, without padding",
            "gmpo's clock includes cutting and packing the rows and the step's metrics; the others' batches are laid out beforehand",
            "by CPU time: of rank 0's threads, which other people's work on the machine changes less; the aims speak of the clock",
            "ratios: of the same round, ways taking turns; mfu: see Shape.update_flops, recomputation is not counted",
        ],
    )


def _row(one: Measured, case: Case, settings: Settings, device: str) -> Row:
    rates = Spread.of([case.tokens / seconds for seconds in one.seconds])
    return {
        "case": one.case,
        "way": one.way,
        "tokens_per_s_median": rates.median,
        "tokens_per_s_low": rates.low,
        "tokens_per_s_high": rates.high,
        "seconds_median": Spread.of(one.seconds).median,
        "cpu_seconds_median": Spread.of(one.cpu_seconds).median,
        "mfu": _mfu(one, case, settings, device),
        "peak_memory_gib": one.peak_memory_gib,
        "micro_batches": one.micro_batches,
        "padding_share": one.filling,
        "grad_norm": one.grad_norm,
    }


def _mfu(one: Measured, case: Case, settings: Settings, device: str) -> float | None:
    """Share of the GPUs' peak; None where that is not known."""
    peak = peak_flops(device)
    if peak is None:
        return None
    return SHAPES[settings.model].update_flops(case.pairs) / Spread.of(one.seconds).median / peak / settings.ranks


def _published(case: Case, settings: Settings) -> list[Row]:
    if (found := PUBLISHED.get((settings.model, case.row_tokens))) is None:
        return []
    return [
        {
            "case": case.name,
            "way": f"{found.source}, published, H100",
            "tokens_per_s_median": found.tokens_per_s,
            "mfu": found.mfu,
            "peak_memory_gib": found.peak_memory_gib,
            "micro_batches": 2,
        }
    ]


def _ratios(measured: Sequence[Measured], case: Case, settings: Settings, device: str) -> dict[str, Spread]:
    """Tokens per second of gmpo over the fastest rival of each kind; its MFU, alone and over what was published."""
    ours = next((one for one in measured if one.way == "gmpo"), None)
    if ours is None:
        return {}
    found: dict[str, Spread] = {}
    for kind in WAYS[1:]:
        if rivals := [one for one in measured if one.way.startswith(kind)]:
            fastest = min(rivals, key=lambda one: Spread.of(one.seconds).median)
            found[f"gmpo_over_{kind}, {case.name}"] = ratios(fastest.seconds, ours.seconds)
            if settings.device == "cpu":
                found[f"gmpo_over_{kind} by CPU time, {case.name}"] = ratios(fastest.cpu_seconds, ours.cpu_seconds)
    if (mfu := _mfu(ours, case, settings, device)) is not None:
        found[f"mfu, {case.name}"] = Spread.of([mfu])
        if published := PUBLISHED.get((settings.model, case.row_tokens)):
            found[f"mfu_over_published, {case.name}"] = Spread.of([mfu / published.mfu])
    return found


def _aims(found: Mapping[str, Spread], case: Case) -> list[Aim]:
    bounds = {"gmpo_over_bare": BARE_AIM, "gmpo_over_padded": PADDED_AIM, "mfu_over_published": PUBLISHED_AIM}
    if case.row_tokens:
        del bounds["gmpo_over_padded"]  # rows of one length need no padding
    if case.row_tokens == MFU_AIM_AT:
        bounds["mfu"] = MFU_AIM
    named = {f"{ratio}, {case.name}": bound for ratio, bound in bounds.items()}
    return [Aim.at_least(name, bound, found[name]) for name, bound in named.items() if name in found]
