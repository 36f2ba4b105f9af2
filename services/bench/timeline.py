"""From the times at which steps ended to figures of a steady run: what `gmpo bench whole` reads off either side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from actors.errors import GmpoError

Interval = tuple[float, float]
"""(begin, end), unix seconds."""


@dataclass(frozen=True, slots=True)
class StepEnd:
    """A step as it ended."""

    time: float  # unix seconds
    tokens: float  # sampled for it
    seconds: Mapping[str, float] = field(default_factory=dict)  # of its stages, where they are known


@dataclass(frozen=True, slots=True)
class Steady:
    """One run of one side, its first steps left out."""

    startup_s: float  # from the command to the end of the first step
    step_s: float
    samples_per_s: float
    tokens_per_s: float  # sampled
    response_tokens: float  # mean
    stages: Mapping[str, float]  # seconds a step


def steady(ends: Sequence[StepEnd], *, launched: float, warmup: int, timed: int, responses: int) -> Steady:
    """Figures of the `timed` steps after `warmup` (at least 1) others; what follows does not count. GmpoError if some are missing."""
    if len(ends) < warmup + timed:
        raise GmpoError(f"bench whole: {len(ends)} steps were done, and {warmup + timed} were to be timed")
    counted = ends[warmup : warmup + timed]
    seconds = counted[-1].time - ends[warmup - 1].time
    tokens = sum(end.tokens for end in counted)
    names = dict.fromkeys(name for end in counted for name in end.seconds)
    return Steady(
        startup_s=ends[0].time - launched,
        step_s=seconds / timed,
        samples_per_s=timed * responses / seconds,
        tokens_per_s=tokens / seconds,
        response_tokens=tokens / timed / responses,
        stages={name: sum(end.seconds.get(name, 0.0) for end in counted) / timed for name in names},
    )


def of_run(metrics: Iterable[Mapping[str, Any]], history: Iterable[Mapping[str, Any]]) -> list[StepEnd]:
    """The steps of one of our runs, from the lines of its metrics and of its ledger.

    The learner group waits, learns and publishes by turns; `rest` is what is left of a step: fetching, acks, the queue. Generation
    goes on beside that: its seconds are those of a step in which at least one prompt was with the engines.
    """
    generating = [_generation(event) for event in history if event["event"] == "ready" and event["seconds"]]
    ends: list[StepEnd] = []
    began: float | None = None
    for line in metrics:
        learner = {"learner_s": line["learner/seconds"], "publish_s": line["weights/publish_s"], "wait_s": line["queue/wait_s"]}
        rest = line["step/seconds"] - sum(learner.values())
        generation = covered(generating, (line["time"] - line["step/seconds"] if began is None else began, line["time"]))
        ends.append(StepEnd(line["time"], line["generation/tokens"], {"generation_s": generation, **learner, "rest_s": rest}))
        began = line["time"]
    return ends


def of_trl(lines: Iterable[Mapping[str, Any]], *, responses: int) -> list[StepEnd]:
    """The steps of TRL's trainer, one stage after the other. GmpoError if it did other work than it was given."""
    ends: list[StepEnd] = []
    for line in lines:
        if line["responses"] != responses:
            raise GmpoError(f"bench whole: TRL sampled {line['responses']:.0f} responses for a step, not {responses}")
        learner = line["time"] - ends[-1].time - line["generation_s"] if ends else 0.0
        ends.append(StepEnd(line["time"], line["tokens"], {"generation_s": line["generation_s"], "learner_s": learner}))
    return ends


def covered(intervals: Iterable[Interval], window: Interval) -> float:
    """Seconds of the window that lie in at least one interval."""
    total, reached = 0.0, window[0]
    for begin, end in sorted(intervals):
        begin, end = max(begin, reached), min(end, window[1])
        if end > begin:
            total += end - begin
            reached = end
    return total


def _generation(event: Mapping[str, Any]) -> Interval:
    """When a prompt was with the engines: its verification, right after, ended with the event."""
    seconds = event["seconds"]
    end = event["time"] - seconds.get("verified", 0.0) - seconds.get("scored", 0.0)
    return end - seconds["generated"], end
