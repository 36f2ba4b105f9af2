"""The main job on the embedded default: train the tiny policy, serve it, ask it one question over HTTP, say what came of it.

Run again, it reuses the warm policy and the finished run.
"""

from __future__ import annotations

import sys
from pathlib import Path

from services.config import load_recipe
from services.policy.client import query
from services.policy.endpoint import serve_run
from services.telemetry.console import screen
from services.training.evaluation import before_and_after
from services.training.train import train

QUESTION = "483920="


def main(*overrides: str) -> None:
    """Train, serve, ask."""
    out = screen()
    recipe = load_recipe(Path(__file__).with_name("recipes") / "tiny.yaml", ["run.name=demo", *overrides])
    run = train(recipe)
    out.print("starting the endpoint ...")
    with serve_run(run, recipe.serve.model_copy(update={"port": 0})) as endpoint:
        answer = query(endpoint.url, QUESTION, key=endpoint.key)
    first, last = before_and_after(run)
    lines = (
        f"held-out accuracy, sampled: {first['sampled']:.3f} -> {last['sampled']:.3f}",
        f"held-out accuracy, greedy:  {first['greedy']:.3f} -> {last['greedy']:.3f}   ({last['n']} problems, {last['step']} steps of GMPO)",
        f"run directory: {run}",
        f"report:        {run / 'report.html'}",
        f"POST {endpoint.url}/v1/chat/completions {QUESTION!r} -> {answer.text!r} by {answer.model}, step {answer.step}",
        f"to ask it yourself, here or in a browser:  .venv/bin/gmpo serve {run}",
    )
    for line in lines:
        out.print(line, markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
