from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from actors.weights.manifest import read_manifest
from actors.weights.version import version_path, write_version
from services.config import dump
from services.evaluation.estimate import wilson
from services.evaluation.results import Result, Summary, write_result
from tests.tiny_model import build_model, save_tokenizer
from tests.unit.recipes import tiny_recipe
from tests.unit.replay.histories import plain_history

STEPS = 4
RECIPE = (
    "run.name=a-run",
    "run.root=/home/someone/runs",
    f"run.steps={STEPS}",
    "run.prompts_per_step=2",
    "learner.updates_per_step=1",
    "replay.max_staleness=1",
    "learner.resources={someones-node: 1}",
    "cluster.address=ray://someones-host:10001",
    "serve.keys_file=/home/someone/keys.json",
    "telemetry.trackers=[{type: mlflow, tracking_uri: 'http://someone:hunter2hunter2@tracker'}]",
)
"""Of a run of four steps, with all that must not leave the machine."""


def score(share: float) -> Summary:
    return Summary(40, 1, {1: wilson(share, 40)}, share, 0.0, 0, 0, 7.0, 1.0)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is done, with versions of steps 2 and 4, evaluated at 0, 2 and 4: held out better at 2. Not to be changed."""
    run = tmp_path_factory.mktemp("export") / "a-run"
    tokenizer = save_tokenizer(run.parent / "tokenizer")
    for step in (2, 4):
        model = build_model(step)
        weights, config = model.state_dict(), model.config
        place = version_path(run / "policies", step)
        write_version(place, state_dict=weights, model_config=config, tokenizer_dir=tokenizer, step=step, parent=step - 2, run="a-run")
    (run / "config.yaml").write_text(dump(tiny_recipe(*RECIPE)))
    lines = {
        "ledger.jsonl": plain_history(STEPS),
        "metrics.jsonl": [metrics(step) for step in range(1, STEPS + 1)],
        "evaluation.jsonl": [held_out(0, 0.25), held_out(2, 0.75), held_out(4, 0.5)],
    }
    for name, rows in lines.items():
        (run / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    for step, share in ((0, 0.1), (2, 0.3), (4, 0.6)):
        weights_sha256 = read_manifest(version_path(run / "policies", step)).weights_sha256 if step else "0" * 64
        result = Result("sums", "digest", step, weights_sha256, datetime(2026, 1, 1, tzinfo=UTC), score(share), {"all": score(share)})
        write_result(run, result)
    return run


def metrics(step: int) -> dict[str, float]:
    ratios = {f"learner/log_ratio_{name}": value for name, value in (("min", -0.3), ("p01", -0.1), ("p99", 0.1), ("max", 0.3))}
    return {"step": step, "reward/mean": step / 10, "learner/entropy": 1 / step, **ratios}


def held_out(step: int, greedy: float) -> dict[str, object]:
    return {"step": step, "sampled": greedy / 2, "greedy": greedy, "n": 64, "samples": []}


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, to be harmed."""
    return Path(shutil.copytree(finished, tmp_path / "a-run"))


@pytest.fixture
def terse(run: Path) -> Path:
    """A copy that recorded nothing but its versions: there is nothing to draw, so it is exported quickly."""
    for name in ("metrics.jsonl", "evaluation.jsonl", "ledger.jsonl"):
        (run / name).unlink()
    shutil.rmtree(run / "evaluations")
    return run
