"""`gmpo bench learner --scaling`: how the time of an update grows with the number of its sequences and with their length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from services.bench.contest import Case, Measured, measure
from services.bench.learner import Settings
from services.bench.results import Report, Row, Spread, device_name

COUNTS, COUNTS_LENGTH = (1, 2, 4, 8, 16, 24), 256
LENGTHS, LENGTHS_COUNT = (64, 128, 256, 512, 768, 1_024), 4
"""The grid: sequences of 256 tokens, and four sequences of each length. Its largest updates have 6,144 and 4,096 tokens."""


@dataclass(frozen=True, slots=True)
class Line:
    """seconds = base + per_token x tokens, by least squares over the medians; `slope` is that of log seconds over log tokens."""

    base_s: float
    per_token_s: float
    r2: float
    slope: float

    @classmethod
    def fit(cls, tokens: Sequence[int], seconds: Sequence[float]) -> Line:
        """Through at least two points."""
        per_token, base = np.polyfit(tokens, seconds, 1)
        left = np.asarray(seconds) - (base + per_token * np.asarray(tokens))
        spread = np.asarray(seconds) - np.mean(seconds)
        slope, _ = np.polyfit(np.log(tokens), np.log(seconds), 1)
        return cls(float(base), float(per_token), float(1 - (left @ left) / (spread @ spread)), float(slope))


@dataclass(frozen=True, slots=True)
class Sweep:
    """One panel: what varied, what was measured, and the line through it."""

    name: str
    values: tuple[int, ...]  # sequences, or tokens a sequence
    tokens: tuple[int, ...]  # of an update, over all ranks
    seconds: tuple[Spread, ...]

    @property
    def line(self) -> Line:
        """The fit."""
        return Line.fit(self.tokens, [spread.median for spread in self.seconds])


def run(settings: Settings, *, counts: Sequence[int] = COUNTS, lengths: Sequence[int] = LENGTHS) -> tuple[Report, list[Sweep]]:
    """Measure the grid with this project's learner alone: the report, and the sweeps for the plot."""
    plan = {
        "sequences": {count: _case(f"{count} sequences", count, COUNTS_LENGTH, settings) for count in counts},
        "tokens a sequence": {length: _case(f"{length} tokens", LENGTHS_COUNT, length, settings) for length in lengths},
    }
    cases = [case for sweep in plan.values() for case in sweep.values()]
    measured = {one.case: one for one in measure(replace(settings, ways=("gmpo",)).contest, cases)}
    sweeps = [_sweep(name, sweep, measured) for name, sweep in plan.items()]
    return Report(
        bench="learner scaling",
        device=device_name(settings.device),
        settings=asdict(settings),
        rows=[row for sweep in sweeps for row in _rows(sweep)],
        ratios={
            f"{figure}, {sweep.name}": Spread.of([getattr(sweep.line, figure)]) for sweep in sweeps for figure in Line.__dataclass_fields__
        },
        notes=[
            f"sequences of {COUNTS_LENGTH} tokens; {LENGTHS_COUNT} sequences of each length (times the ranks)",
            "seconds = base + per_token x tokens by least squares over medians; slope: of log seconds over log tokens, 1 is linear",
            "attention adds a term that grows with the square of a sequence's length: see Shape.update_flops for its share",
        ],
    ), sweeps


def _case(name: str, count: int, length: int, settings: Settings) -> Case:
    return Case(name, ((1, length - 1),) * (count * settings.ranks), settings.micro_batch_tokens or count * length)


def _sweep(name: str, cases: dict[int, Case], measured: dict[str, Measured]) -> Sweep:
    return Sweep(
        name=name,
        values=tuple(cases),
        tokens=tuple(case.tokens for case in cases.values()),
        seconds=tuple(Spread.of(measured[case.name].seconds) for case in cases.values()),
    )


def _rows(sweep: Sweep) -> list[Row]:
    return [
        {
            "varied": sweep.name,
            "value": value,
            "tokens": tokens,
            "seconds_median": spread.median,
            "seconds_low": spread.low,
            "seconds_high": spread.high,
            "fit_seconds": sweep.line.base_s + sweep.line.per_token_s * tokens,
            "tokens_per_s_median": tokens / spread.median,
        }
        for value, tokens, spread in zip(sweep.values, sweep.tokens, sweep.seconds, strict=True)
    ]
