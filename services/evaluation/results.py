"""What evaluations found, as files of the run directory: light to import, for all that shows or compares versions.

<run>/evaluations/<suite>/step-12.json     the result
                          step-12.jsonl    the answers it was made from (see `answers`)
"""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pydantic import AwareDatetime, ConfigDict, TypeAdapter, ValidationError

from services.evaluation.estimate import Estimate
from services.telemetry.atomic import write_atomically

log = logging.getLogger(__name__)

EVALUATIONS = "evaluations"
_STEP = re.compile(r"step-(0|[1-9]\d*)\.json")


@dataclass(frozen=True, slots=True)
class Summary:
    """What was found of one set of problems, or of all of a suite's together."""

    problems: int
    samples: int  # answers to each problem
    pass_at: Mapping[int, Estimate]  # by k; 1 is always there
    score: float  # mean reward; of an answer that was not graded 0
    truncated: float  # share of answers that ended at the token limit
    ungraded: int  # answers whose verification failed (timeout, crash, oom); they count as wrong
    left_out: int  # rows of the source that are no usable problem
    length: float  # mean tokens of an answer
    seconds: float  # time from question to verdict, added up over problems, many of which were under way at once


@dataclass(frozen=True, slots=True)
class Result:
    """One version's result on one suite."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    suite: str
    digest: str  # of the suite: its settings, and every prompt and gold answer; results are compared only where it is the same
    step: int
    weights: str  # sha256 of the version's weights
    created: AwareDatetime  # UTC
    overall: Summary  # pass_at is the unweighted mean over the sets, all else is over all answers
    sets: Mapping[str, Summary]


_RESULT = TypeAdapter(Result)


def result_path(run_dir: Path, suite: str, step: int) -> Path:
    """Where a result is, or would be."""
    return run_dir / EVALUATIONS / suite / f"step-{step}.json"


def write_result(run_dir: Path, result: Result) -> Path:
    """Write a result, in place of an older one; returns its path."""
    path = result_path(run_dir, result.suite, result.step)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, _RESULT.dump_json(result, indent=2).decode() + "\n")
    return path


def read_result(path: Path) -> Result | None:
    """One result; None where there is none, or none that can be read, which is logged."""
    try:
        return _RESULT.validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (ValidationError, OSError) as error:
        log.warning("%s: no result of an evaluation: %s", path, error)
        return None


def read_results(run_dir: Path) -> list[Result]:
    """All results of a run, by suite and step."""
    paths = [path for path in (run_dir / EVALUATIONS).glob("*/*.json") if _STEP.fullmatch(path.name)]
    results = [result for path in paths if (result := read_result(path))]
    return sorted(results, key=lambda result: (result.suite, result.step))


def comparable(results: Iterable[Result]) -> list[Result]:
    """Of each suite the results that were found by the same problems and settings as its latest one."""
    latest: dict[str, Result] = {}
    held = list(results)
    for result in held:
        if result.suite not in latest or result.created > latest[result.suite].created:
            latest[result.suite] = result
    return [result for result in held if result.digest == latest[result.suite].digest]


def metrics_of(results: Iterable[Result]) -> dict[int, dict[str, float]]:
    """step -> metric -> value, of comparable results: `paper/pass@1`, and `paper/aime24/pass@1` where a suite has several sets."""
    metrics: defaultdict[int, dict[str, float]] = defaultdict(dict)
    for result in comparable(results):
        metrics[result.step].update({name: estimate.value for name, estimate in _estimates(result)})
    return dict(metrics)


def series(results: Iterable[Result]) -> dict[str, dict[str, list[Any]]]:
    """Metric -> `steps`, `values`, `low` and `high`, of comparable results, oldest step first."""
    found: dict[str, dict[str, list[Any]]] = {}
    for result in sorted(comparable(results), key=lambda result: result.step):
        for name, estimate in _estimates(result):
            line = found.setdefault(name, {"steps": [], "values": [], "low": [], "high": []})
            for key, value in zip(line, (result.step, estimate.value, estimate.low, estimate.high), strict=True):
                line[key].append(value)
    return found


def rows(results: Iterable[Result]) -> list[dict[str, Any]]:
    """One flat row for each comparable result, for tables."""
    return [
        {
            "suite": result.suite,
            "step": result.step,
            "pass@1": result.overall.pass_at[1].value,
            "low": result.overall.pass_at[1].low,
            "high": result.overall.pass_at[1].high,
            "problems": result.overall.problems,
            "samples": result.overall.samples,
        }
        for result in comparable(results)
    ]


def _estimates(result: Result) -> Iterable[tuple[str, Estimate]]:
    for k, estimate in result.overall.pass_at.items():
        yield f"{result.suite}/pass@{k}", estimate
    if len(result.sets) > 1:
        for name, summary in result.sets.items():
            for k, estimate in summary.pass_at.items():
                yield f"{result.suite}/{name}/pass@{k}", estimate
