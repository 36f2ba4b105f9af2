"""What a run found out about one of its versions: held-out accuracy, suites, and what became of the prompts. All of it may be missing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.errors import DataError
from services.evaluation.estimate import Estimate, wilson
from services.evaluation.results import Result, Summary, read_results
from services.ledger import audit_run


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The run's own held-out problems, as one evaluation of the run asked them."""

    step: int
    problems: int
    greedy: Estimate  # one answer a problem, so Wilson's interval is that of a share of problems
    sampled: float  # several answers a problem; the run keeps no figure by problem, so there is no interval


@dataclass(frozen=True, slots=True)
class Score:
    """What one version reached on one set of a suite, or on all of its sets together."""

    suite: str
    set: str
    k: int
    problems: int
    samples: int
    after: Estimate
    before: Estimate | None  # of the oldest version that was asked the same problems in the same way


@dataclass(frozen=True, slots=True)
class Prompts:
    """What the ledger says of the run's prompts."""

    trained_so_far: int  # up to the exported step
    trained: int
    dropped: Mapping[str, int]  # reason -> prompts
    steps: int
    oldest_age: int | None  # versions
    broken_rules: int


def held_out(evaluations: Iterable[Mapping[str, Any]], step: int) -> tuple[HeldOut, ...]:
    """The first evaluation and the last one up to this step, or the only one; `evaluations` are rows of evaluation.jsonl by step."""
    rows = [row for row in evaluations if row["step"] <= step]
    chosen = {row["step"]: row for row in (*rows[:1], *rows[-1:])}
    return tuple(HeldOut(at, row["n"], wilson(row["greedy"], row["n"]), row["sampled"]) for at, row in chosen.items() if row["n"])


def scores(run_dir: Path, step: int, weights: str) -> list[Score]:
    """The suites' results of a version, by suite; one that was found by other weights of the same step is left out."""
    results = read_results(run_dir)
    ours = [result for result in results if result.step == step and result.weights == weights]
    return [score for result in ours for score in _scores(result, _oldest_like(result, results))]


def prompts(run_dir: Path, step: int) -> Prompts | None:
    """The account of the run's ledger; None where there is none, or it cannot be read."""
    try:
        found, violations = audit_run(run_dir)
    except DataError:
        return None
    return Prompts(
        trained_so_far=sum(len(ordinals) for at, ordinals in found.trained.items() if at <= step),
        trained=sum(len(ordinals) for ordinals in found.trained.values()),
        dropped=found.account.dropped,
        steps=found.account.steps,
        oldest_age=found.account.oldest_age,
        broken_rules=len(violations),
    )


def _oldest_like(result: Result, results: Sequence[Result]) -> Result | None:
    alike = [other for other in results if (other.suite, other.digest) == (result.suite, result.digest) and other.step < result.step]
    return min(alike, key=lambda other: other.step, default=None)


def _scores(result: Result, before: Result | None) -> Iterator[Score]:
    sets: dict[str, Summary] = dict(result.sets)
    old: dict[str, Summary] = dict(before.sets) if before else {}
    if len(sets) > 1:
        sets["mean of sets"] = result.overall
        old |= {"mean of sets": before.overall} if before else {}
    for name, summary in sets.items():
        earlier = old[name].pass_at if name in old else {}
        for k, after in summary.pass_at.items():
            yield Score(result.suite, name, k, summary.problems, summary.samples, after, earlier.get(k))
