"""What a driver finds that the one before it did not come to tell."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from services.training.untold import untold_steps


def write(path: Path, *rows: dict[str, Any], torn: str = "") -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + torn)
    return path


def published(version: int, reward: float) -> dict[str, Any]:
    return {"time": 0.0, "event": "published", "version": version, "metrics": {"reward/mean": reward}}


def test_published_steps_up_to_the_checkpoint_are_told_in_order_as_they_were_published_last(tmp_path: Path) -> None:
    history = write(
        tmp_path / "ledger.jsonl",
        {"time": 0.0, "event": "published", "version": 0},
        *(published(version, version / 10) for version in (1, 2, 3)),
        published(3, 0.9),
        published(4, 0.4),
    )
    log = write(tmp_path / "metrics.jsonl", {"step": 1}, torn='{"step": 2, "rew')
    run: Any = SimpleNamespace(metrics=log, history=history)
    assert list(untold_steps(run, 3)) == [(2, {"reward/mean": 0.2}), (3, {"reward/mean": 0.9})]
    assert list(untold_steps(run, 1)) == []
