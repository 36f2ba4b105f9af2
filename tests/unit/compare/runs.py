"""Made-up run directories."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from services.config import dump
from tests.unit.recipes import tiny_recipe

GRPO = "learner.objective={type: grpo}"
DRAWN = (
    "reward/mean",
    "learner/log_ratio_min",
    "learner/log_ratio_p01",
    "learner/log_ratio_p99",
    "learner/log_ratio_max",
    "learner/entropy",
    "learner/kl_ref",
    "learner/grad_norm",
    "learner/clip_fraction",
    "generation/length_mean",
    "staleness/mean",
)

Figures = Mapping[str, Sequence[float | None]]


def write_run(root: Path, name: str, figures: Figures, *settings: str, seed: int = 0, greedy: Mapping[int, float] | None = None) -> Path:
    """A run with these values at step 1, 2, ..., and greedy accuracies by step; sampled ones are half of them."""
    run_dir = root / name
    run_dir.mkdir(parents=True)
    recipe = tiny_recipe(*settings, f"run.name={name}", f"run.root={root}", f"run.seed={seed}")
    (run_dir / "config.yaml").write_text(dump(recipe))
    steps = range(1, 1 + max((len(values) for values in figures.values()), default=0))
    rows = [
        {"step": step, "time": 0.0} | {name: values[step - 1] for name, values in figures.items() if step <= len(values)} for step in steps
    ]
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = [{"step": step, "sampled": value / 2, "greedy": value, "n": 8, "samples": []} for step, value in (greedy or {}).items()]
    (run_dir / "evaluation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    return run_dir


def level(value: float, *, steps: int = 4) -> dict[str, list[float | None]]:
    """Every drawn metric at one value, its step's hundredth added."""
    return {name: [value + step / 100 for step in range(1, steps + 1)] for name in DRAWN}
