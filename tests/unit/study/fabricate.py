"""Studies and run directories as the study runner leaves them, with figures made up for the purpose."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from services.compare.series import RunCurves
from services.config import dump
from services.study.config import Cell, Study, load_study
from services.study.records import Ended, Records

TINY = Path(__file__).parents[3] / "deploy" / "recipes" / "tiny.yaml"
OBJECTIVES = {name: [f"learner.objective={{type: {name}}}"] for name in ("gmpo", "grpo", "gspo")}
RATES = {rate: [f"learner.optimizer={{lr: {float(rate)}, schedule: constant}}"] for rate in ("1e-4", "3e-4", "1e-3")}
BEFORE = 0.3
"""Held-out accuracy before the first step."""


@dataclass(frozen=True, slots=True)
class Makeup:
    """What a run's figures are made to look like."""

    accuracy: float = 0.9  # reached at the planned end
    width: float = 2.0  # of the log-ratios, in nats
    entropy: float = 0.3
    kl: float = 0.2
    last_kl: float | None = None  # of the last step; None: as in the others
    outcome: str = "done"
    made: int | None = None  # steps before it ended; None: all


def write_study(directory: Path, *, name: str = "small", factors: dict[str, Any] | None = None, seeds: int = 5, steps: int = 20) -> Study:
    """A study over the tiny recipe, read back from its file."""
    tree = {
        "name": name,
        "title": f"The {name} study",
        "recipe": str(TINY),
        "settings": [f"run.steps={steps}", "evaluation.every=10"],
        "seeds": list(range(seeds)),
        "baseline": "grpo",
        "factors": factors or {"objective": OBJECTIVES},
    }
    path = directory / f"{name}.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    return load_study(path)


def ended(makeup: Makeup, *, cell: Cell | None = None, seed: int = 0, steps: int = 20) -> Ended:
    """A run as it is read back."""
    rows, asked = _rows(makeup, seed, steps)
    metrics = {name: np.array([row[name] for row in rows]) for name in rows[0] if name != "step"}
    curves = RunCurves(Path("run"), "run", {"run": {"steps": steps}}, seed, np.arange(1, len(rows) + 1), metrics, tuple(asked))
    return Ended(cell or Cell(("gmpo",), ()), seed, makeup.outcome, "", curves)


def records_of(study: Study, made: Callable[[Cell, int], Makeup | None], *, steps: int = 20) -> Records:
    """The study's runs as they are read back, each as `made` says; None for one that has not ended."""
    runs: dict[tuple[str, ...], dict[int, Ended]] = {cell.levels: {} for cell in study.cells}
    for cell in study.cells:
        for seed in study.seeds:
            if (makeup := made(cell, seed)) is not None:
                runs[cell.levels][seed] = ended(makeup, cell=cell, seed=seed, steps=steps)
    return Records(study, runs)


def write_run(study: Study, cell: Cell, seed: int, makeup: Makeup) -> None:
    """The directory of a run that ended, and its outcome."""
    path, recipe = study.run_dir(cell, seed), study.recipe(cell, seed)
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(dump(recipe), encoding="utf-8")
    rows, asked = _rows(makeup, seed, recipe.run.steps)
    _write(path / "metrics.jsonl", rows)
    _write(path / "evaluation.jsonl", asked)
    why = "" if makeup.outcome == "done" else "told by the run"
    with (study.directory / "outcomes.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"run": path.name, "outcome": makeup.outcome, "why": why, "seconds": 1.0}) + "\n")


def _rows(makeup: Makeup, seed: int, planned: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(metrics, evaluations); seeds differ by a little, in the same way for every makeup."""
    made = makeup.made or planned
    shares = [BEFORE + (makeup.accuracy + 0.01 * seed - BEFORE) * step / planned for step in range(made + 1)]
    noise = np.random.default_rng(seed).uniform(0.95, 1.05, made + 1).tolist()
    rows = [_step(step, shares[step], makeup.width * noise[step], makeup) for step in range(1, made + 1)]
    rows[-1]["learner/kl_ref"] = makeup.kl if makeup.last_kl is None else makeup.last_kl
    asked = [{"step": step, "sampled": shares[step], "greedy": shares[step] + 0.02, "n": 256} for step in range(0, made + 1, 10)]
    return rows, asked


def _step(step: int, share: float, width: float, makeup: Makeup) -> dict[str, Any]:
    return {
        "step": step,
        "reward/mean": share,
        "generation/length_mean": 7.0,
        "learner/grad_norm": width,
        "learner/log_ratio_min": -0.75 * width,
        "learner/log_ratio_p01": -0.1 * width,
        "learner/log_ratio_p99": 0.1 * width,
        "learner/log_ratio_max": 0.25 * width,
        "learner/sequence_ratio": float(np.exp(0.01 * width)),
        "learner/clip_fraction": 0.01,
        "learner/entropy": makeup.entropy,
        "learner/kl_ref": makeup.kl,
    }


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
