"""What a run directory remembers, read back for people: figures per step, evaluations, rollouts. All of it may be partial."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as compute
import pyarrow.parquet as parquet

from services.telemetry.jsonl import read_rows

SAMPLE_COLUMNS = ("step", "ordinal", "sample", "prompt", "response", "score", "outcome", "version_oldest", "version_newest", "advantage")

Series = tuple[list[int], list[float]]
"""(steps, values), without the steps that have no finite value."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One training response as it was scored; a field the file lacks is None."""

    step: int | None
    ordinal: int | None
    sample: int | None
    prompt: str
    response: str
    score: float | None
    outcome: str | None
    version_oldest: int | None
    version_newest: int | None
    advantage: float | None


@dataclass(frozen=True, slots=True)
class History:
    """A run as its files tell it."""

    config: str  # config.yaml as text, empty where there is none
    metrics: list[dict[str, Any]]  # the objects of metrics.jsonl, in order of step
    evaluations: list[dict[str, Any]]  # the objects of evaluation.jsonl, in order of step
    first: list[Sample]  # of the first step that has rollouts
    last: list[Sample]  # of the last such step; empty where it is the first

    def series(self, name: str) -> Series:
        """One figure over the steps."""
        return _series(self.metrics, name)

    def accuracy(self, kind: str) -> Series:
        """Held-out accuracy, "sampled" or "greedy", from the evaluations or else from the metrics."""
        steps, values = _series(self.evaluations, kind)
        return (steps, values) if steps else self.series(f"eval/{kind}")


def read_history(run_dir: Path, *, rollouts: bool = True) -> History:
    """Read what there is in `run_dir`; `rollouts=False` leaves `first` and `last` empty, which is much quicker in large runs."""
    config = run_dir / "config.yaml"
    files = sorted((run_dir / "rollouts").glob("*.parquet"), key=_number) if rollouts else []
    return History(
        config=config.read_text(encoding="utf-8") if config.exists() else "",
        metrics=_read_lines(run_dir / "metrics.jsonl"),
        evaluations=_read_lines(run_dir / "evaluation.jsonl"),
        first=_read_samples(files[0]) if files else [],
        last=_read_samples(files[-1]) if len(files) > 1 else [],
    )


def read_page(path: Path, *, outcome: str | None, offset: int, limit: int) -> tuple[int, list[Sample]]:
    """Some samples of a step's file: how many have this outcome (None: any), and those from `offset` on, in the file's order."""
    names = [name for name in SAMPLE_COLUMNS if name in parquet.read_schema(path).names]
    table = parquet.read_table(path, columns=names)
    if outcome is not None:
        table = table.filter(compute.equal(table["outcome"], outcome)) if "outcome" in names else table.slice(0, 0)
    return table.num_rows, [_sample(row) for row in table.slice(offset, limit).to_pylist()]


def _series(rows: Iterable[dict[str, Any]], name: str) -> Series:
    points = [(int(row["step"]), float(row[name])) for row in rows if row.get(name) is not None and math.isfinite(row[name])]
    return [step for step, _ in points], [value for _, value in points]


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file by step; a last line that is still being written is left out."""
    return sorted(read_rows(path), key=lambda row: int(row["step"]))


def _read_samples(path: Path) -> list[Sample]:
    there = set(parquet.read_schema(path).names)
    if not {"prompt", "response"} <= there:
        return []
    rows = parquet.read_table(path, columns=[name for name in SAMPLE_COLUMNS if name in there]).to_pylist()
    return [_sample(row) for row in rows]


def _sample(row: dict[str, Any]) -> Sample:
    fields: dict[str, Any] = {name: row.get(name) for name in SAMPLE_COLUMNS}
    return Sample(**fields)


def _number(path: Path) -> tuple[int, str]:
    digits = re.findall(r"\d+", path.stem)
    return (int(digits[-1]) if digits else -1, path.name)
