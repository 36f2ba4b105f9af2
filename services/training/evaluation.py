"""Held-out accuracy during a run, by its own engines and verifiers: sampled as in training, and greedy."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from actors.errors import PoisonedPrompt
from actors.generation.spec import Sampling
from actors.types import Outcome, Prompt, RolloutGroup
from services.config import Recipe
from services.training.pools import Pools
from services.training.rundir import EVALUATIONS
from services.training.stages import Stages, generation

SHOWN = 16
"""Held-out problems whose answers are kept for the report."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Shares of right answers, and samples to look at."""

    step: int
    sampled: float
    greedy: float
    problems: int
    samples: list[dict[str, Any]]

    def row(self) -> dict[str, Any]:
        """One line of evaluation.jsonl."""
        return {"step": self.step, "sampled": self.sampled, "greedy": self.greedy, "n": self.problems, "samples": self.samples}

    def metrics(self) -> dict[str, float]:
        """As metrics of the step."""
        return {"eval/sampled": self.sampled, "eval/greedy": self.greedy}


def before_and_after(run_dir: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The first and the last row of a run's evaluation.jsonl."""
    rows = (run_dir / EVALUATIONS).read_text(encoding="utf-8").splitlines()
    return json.loads(rows[0]), json.loads(rows[-1])


async def evaluate(recipe: Recipe, pools: Pools, stages: Stages, problems: Sequence[Prompt], step: int) -> Evaluation:
    """Ask every held-out problem, sampled and greedily."""
    seed, usual = recipe.run.seed, recipe.generation
    sampling = Sampling(recipe.evaluation.samples, usual.temperature, usual.top_p, usual.top_k, usual.max_tokens)
    greedy = Sampling(1, 0.0, 1.0, 0, usual.max_tokens)
    sampled_groups = await asyncio.gather(*(_ask(pools, stages, problem, seed, sampling) for problem in problems))
    greedy_groups = await asyncio.gather(*(_ask(pools, stages, problem, seed, greedy) for problem in problems))
    return Evaluation(
        step, _right(sampled_groups), _right(greedy_groups), len(problems), [_sample(group) for group in greedy_groups[:SHOWN]]
    )


async def _ask(pools: Pools, stages: Stages, problem: Prompt, seed: int, sampling: Sampling) -> RolloutGroup:
    """The graded answers; none at all where processes die under the problem."""
    try:
        while True:
            with contextlib.suppress(ray.exceptions.ObjectLostError):  # with the node that held it: from the start
                return await _graded(pools, stages, problem, seed, sampling)
    except PoisonedPrompt:
        return RolloutGroup(problem, ())


async def _graded(pools: Pools, stages: Stages, problem: Prompt, seed: int, sampling: Sampling) -> RolloutGroup:
    _, group = await stages.run(problem, pools.generation, generation(problem, seed, sampling))
    _, graded = await stages.run(problem, pools.reward, lambda verifier: verifier.verify.options(num_returns=2).remote(group))
    answer: RolloutGroup = await graded
    return answer


def _right(groups: Sequence[RolloutGroup]) -> float:
    """Share of right answers among the graded ones."""
    verdicts = [verdict for group in groups for verdict in group.verdicts or () if verdict.graded]
    return sum(verdict.outcome is Outcome.RIGHT for verdict in verdicts) / max(1, len(verdicts))


def _sample(group: RolloutGroup) -> dict[str, Any]:
    verdict = group.verdicts[0] if group.verdicts else None
    return {
        "prompt": group.prompt.text,
        "response": group.rollouts[0].text if group.rollouts else "",
        "answer": str(group.prompt.answer),
        "score": verdict.score if verdict else None,
    }
