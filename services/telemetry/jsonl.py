"""`metrics.jsonl`: one object per step, one history per run.

    {"step": 12, "time": 1760000000.0, "reward/mean": 0.61, ...}

`time` is unix seconds at the end of the step; a figure that is not finite is null, since JSON has no NaN.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from services.telemetry.atomic import write_atomically


class JsonlSink:
    """Appends a line per step, flushed before `log` returns."""

    def __init__(self, path: Path, *, step: int = 0) -> None:
        """Keep the lines up to `step`, the last step that still counts, and go on from there."""
        self.where = str(path)
        cut_history(path, step)
        self._file = path.open("a", encoding="utf-8")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append the figures of `step`."""
        figures = {name: float(value) if math.isfinite(value) else None for name, value in metrics.items()}
        self._file.write(json.dumps({"step": step, "time": time.time(), **figures}) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def cut_history(path: Path, step: int) -> None:
    """Drop the lines of steps after `step`, and a last line that a crash left torn."""
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
    if kept != lines:
        write_atomically(path, "".join(kept))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of lines, without a last one that a crash left torn; none where there is no file."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]
