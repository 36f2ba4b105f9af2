"""What an earlier driver was cut before it told: a step's checkpoint may be there before its metrics are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from actors.replay.history import read
from services.telemetry.jsonl import read_rows
from services.training.rundir import RunDirectory


def untold_steps(run: RunDirectory, step: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """(step, metrics as they were published) of all steps up to `step` that `metrics.jsonl` lacks, in order."""
    told = {row["step"] for row in read_rows(run.metrics)}
    published = {event["version"]: event["metrics"] for event in read(run.history) if event["event"] == "published" and "metrics" in event}
    for number in range(1, step + 1):
        if number not in told and number in published:
            yield number, published[number]
