"""Seconds from the first step until the tiny recipe's reward has risen, with generation running ahead of learning and without.

    python -m tests.benchmarks.staleness [--seeds 3] [--steps 100] [--reward 0.8] [--json FILE]

Whole runs by `gmpo train`, in turns; only the held-out evaluations are left out. The clock starts with the publication of version 0,
so that start-up, which is the same for both, does not count.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from actors.replay.history import read

RECIPE = Path(__file__).parents[2] / "deploy" / "recipes" / "tiny.yaml"
SMOOTHED = 5
"""Steps over which the reward is averaged."""


def seconds_to(run: Path, reward: float) -> float | None:
    """Seconds from the first publication until the mean reward of the last steps reached `reward`; None if it never did."""
    rewards = [json.loads(line)["reward/mean"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    times = {event["version"]: event["time"] for event in reversed(list(read(run / "ledger.jsonl"))) if event["event"] == "published"}
    for step in range(SMOOTHED, len(rewards) + 1):
        if statistics.mean(rewards[step - SMOOTHED : step]) >= reward:
            return float(times[step] - times[0])
    return None


def main(
    seeds: Annotated[int, typer.Option(min=1)] = 3,
    steps: Annotated[int, typer.Option(min=SMOOTHED)] = 100,
    reward: Annotated[float, typer.Option()] = 0.8,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Run both ways for every seed and say how long each took."""
    found: dict[int, list[float | None]] = {0: [], 1: []}
    with tempfile.TemporaryDirectory() as root:
        for seed in range(seeds):
            for staleness, measured in found.items():
                name = f"seed-{seed}-staleness-{staleness}"
                options = [f"run.name={name}", f"run.root={root}", f"run.seed={seed}", f"run.steps={steps}", "prompts.held_out=0"]
                command = [sys.executable, "-m", "services.cli", "train", str(RECIPE), *options, f"replay.max_staleness={staleness}"]
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
                measured.append(seconds_to(Path(root) / name, reward))
                typer.echo(f"{name}: {measured[-1]}")
    report = {f"max_staleness={staleness}": measured for staleness, measured in found.items()} | {"reward": reward, "steps": steps}
    typer.echo(json.dumps(report))
    if json_file is not None:
        json_file.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
