"""How good each version is, by every figure the run has of its step, and which is best."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from actors.errors import PolicyVersionError
from actors.weights.version import committed_steps
from services.evaluation.results import EVALUATIONS, metrics_of, read_results
from services.policy import orders

_NAMES = {
    "metrics.jsonl": {"reward/mean": "reward/mean"},
    "evaluation.jsonl": {"sampled": "eval/sampled", "greedy": "eval/greedy"},
}
"""File -> its name of a figure -> the metric's."""
Figure = tuple[int, str, float]
"""(step, metric, value)."""
Stamp = tuple[int, int]
"""(size in bytes, time of change in ns) of a file."""
Metrics = Mapping[int, Mapping[str, float]]
"""step -> metric -> value."""


def metrics_by_step(run_dir: Path) -> dict[int, dict[str, float]]:
    """The figures of each step by which a version can be chosen, oldest first; a step that was done again has its later ones.

    `eval/sampled` and `eval/greedy` are shares of held-out problems, `reward/mean` is of the step's training responses, `paper/pass@1`
    and the like are the suites'. PolicyVersionError names a file that cannot be read.
    """
    found: dict[int, dict[str, float]] = defaultdict(dict)
    for file in _NAMES:
        for step, metric, value in _figures(run_dir / file, _stamp(run_dir / file)):
            found[step][metric] = value
    suites = frozenset((path, _stamp(path)) for path in (run_dir / EVALUATIONS).glob("*/*.json"))
    for step, metrics in _suite_metrics(run_dir, suites).items():
        found[step] |= metrics
    return dict(sorted(found.items()))


def best(metrics: Metrics, by: str, among: Collection[int]) -> int | None:
    """The step with the greatest value of this metric; of equal ones the oldest. None where no step among these has it."""
    candidates = [step for step in sorted(among) if by in metrics.get(step, {})]
    return max(candidates, key=lambda step: metrics[step][by], default=None)


def worth_keeping(run_dir: Path, policies: str, *, by: str) -> set[int]:
    """Steps whose versions retention must not delete: promoted, pinned (by the orders under `policies`), and the best there is."""
    leader = best(metrics_by_step(run_dir), by, committed_steps(run_dir / "policies"))
    return {*orders.read(policies).kept, *(() if leader is None else (leader,))}


def _stamp(path: Path) -> Stamp | None:
    """Changes whenever the file does; None where there is none."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_size, stat.st_mtime_ns


@lru_cache(maxsize=64)
def _figures(path: Path, stamp: Stamp | None) -> tuple[Figure, ...]:
    """What one file says, in its order. Parsed once for each stamp: an endpoint asks every second, a long run's file has megabytes."""
    if stamp is None:
        return ()
    names = _NAMES[path.name].items()
    figures = ((row["step"], ours, row.get(theirs)) for row in _rows(path) for theirs, ours in names)
    return tuple((int(step), metric, float(value)) for step, metric, value in figures if value is not None and math.isfinite(value))


@lru_cache(maxsize=8)
def _suite_metrics(run_dir: Path, stamps: frozenset[tuple[Path, Stamp | None]]) -> dict[int, dict[str, float]]:
    """What the suites found; read again when a file of theirs has come or changed."""
    return metrics_of(read_results(run_dir)) if stamps else {}


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSONL file; a last line that is still being written is left out."""
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True), start=1):
        if not line.endswith("\n"):
            return
        try:
            yield json.loads(line)
        except ValueError as error:
            raise PolicyVersionError(f"{path}: line {number}: {error}") from None
