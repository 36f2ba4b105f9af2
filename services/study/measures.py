"""What the results page tells of a run, one figure each, declared once.

A run that diverged must not vanish from the medians: its policy is broken, so its final accuracy is 0, and so is the reward of each step
that it did not reach. Where a run ended because there was nothing left to learn, the policy would have stood still: its last evaluation
holds, and its last reward stands for the steps it did not reach. All other figures are over the steps that a run made.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from services.study.records import DIVERGED, Ended


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure of a run; nan where the run did not write what it is made of."""

    key: str
    title: str  # heads its column
    unit: str  # empty where it has none
    meaning: str
    of: Callable[[Ended], float]
    digits: int = 3

    @property
    def head(self) -> str:
        """Title and unit, as above a column or beside an axis."""
        return f"{self.title} [{self.unit}]" if self.unit else self.title


def started(run: Ended, kind: str = "sampled") -> float:
    """Held-out accuracy before the first step."""
    steps, values = run.curves.curve(f"eval/{kind}")
    return float(values[0]) if len(steps) and steps[0] == 0 else math.nan


def collapsed(run: Ended) -> bool:
    """Whether it ended with less than half of the held-out accuracy it began with."""
    return MEASURES["accuracy"].of(run) < started(run) / 2


def _accuracy(kind: str) -> Callable[[Ended], float]:
    def final(run: Ended) -> float:
        if run.outcome == DIVERGED:
            return 0.0
        _, values = run.curves.curve(f"eval/{kind}")
        return float(values[-1]) if len(values) else math.nan

    return final


def _reward(run: Ended) -> float:
    _, rewards = run.curves.curve("reward/mean")
    missing = max(0, run.steps_planned - len(rewards))
    if not len(rewards):
        return 0.0 if run.outcome == DIVERGED else math.nan
    rest = 0.0 if run.outcome == DIVERGED else float(rewards[-1])
    return float(rewards.sum() + missing * rest) / (len(rewards) + missing)


def _width(low: str, high: str, over_steps: Callable[[np.ndarray], float]) -> Callable[[Ended], float]:
    def width(run: Ended) -> float:
        nothing = np.full(len(run.curves.steps), np.nan)
        widths = run.curves.metrics.get(high, nothing) - run.curves.metrics.get(low, nothing)
        return _over(widths[np.isfinite(widths)], over_steps)

    return width


def _metric(name: str, over_steps: Callable[[np.ndarray], float]) -> Callable[[Ended], float]:
    return lambda run: _over(run.curves.curve(name)[1], over_steps)


def _over(values: np.ndarray, over_steps: Callable[[np.ndarray], float]) -> float:
    return float(over_steps(values)) if len(values) else math.nan


def _last(values: np.ndarray) -> np.ndarray:
    """The last tenth, one value at least."""
    return values[-max(1, len(values) // 10) :]


def _unsteadiness(norms: np.ndarray) -> float:
    return float(norms.std() / norms.mean()) if norms.mean() > 0 else math.nan


def _farthest(weights: np.ndarray) -> float:
    positive = weights[weights > 0]
    return float(np.abs(np.log(positive)).max()) if len(positive) else math.nan


_MIN, _MAX, _P01, _P99 = (f"learner/log_ratio_{end}" for end in ("min", "max", "p01", "p99"))

DOING = (
    Measure(
        "accuracy",
        "held-out accuracy",
        "",
        "share of sampled answers to held-out questions that are right, at the end",
        _accuracy("sampled"),
    ),
    Measure("greedy", "held-out accuracy, greedy", "", "the same, of greedy answers", _accuracy("greedy")),
    Measure("reward", "mean reward", "", "area under the reward curve, divided by the steps", _reward),
)
MOVING = (
    Measure(
        key="range",
        title="log-ratio range",
        unit="nats",
        meaning="greatest less least log-ratio of a token in a step, current to old policy; median over the steps",
        of=_width(_MIN, _MAX, np.median),
        digits=2,
    ),
    Measure(
        key="bulk",
        title="log-ratio range of 98 %",
        unit="nats",
        meaning="99th less 1st percentile of the tokens' log-ratios in a step; median over the steps",
        of=_width(_P01, _P99, np.median),
    ),
    Measure(
        key="widest",
        title="widest log-ratio range",
        unit="nats",
        meaning="greatest less least log-ratio of a token in the step where they lie farthest apart",
        of=_width(_MIN, _MAX, np.max),
        digits=2,
    ),
    Measure(
        key="weight",
        title="farthest response weight",
        unit="nats",
        meaning="greatest size of ln w over the steps, w being the mean weight that the objective gives a response by its ratio",
        of=_metric("learner/sequence_ratio", _farthest),
    ),
    Measure(
        key="clip",
        title="clip fraction",
        unit="",
        meaning="share of tokens (of responses, where whole ones are clipped) whose clip binds, mean over the steps",
        of=_metric("learner/clip_fraction", np.mean),
        digits=4,
    ),
)
BECOMING = (
    Measure(
        "entropy",
        "entropy",
        "nats",
        "next-token entropy of the tokens learned from, mean over the steps",
        _metric("learner/entropy", np.mean),
    ),
    Measure(
        key="entropy_end",
        title="entropy at the end",
        unit="nats",
        meaning="the same over the last tenth of the steps",
        of=_metric("learner/entropy", lambda values: float(_last(values).mean())),
    ),
    Measure(
        key="kl",
        title="KL to the start",
        unit="nats",
        meaning="KL to the starting policy (k3) of the tokens learned from, median over the last tenth of the steps: a mean would be that "
        "of a few tokens",
        of=_metric("learner/kl_ref", lambda values: float(np.median(_last(values)))),
    ),
    Measure(
        key="unsteadiness",
        title="gradient unsteadiness",
        unit="",
        meaning="standard deviation of the gradient norm over the steps, divided by its mean",
        of=_metric("learner/grad_norm", _unsteadiness),
    ),
)
GROUPS: Mapping[str, tuple[Measure, ...]] = {
    "How well it does": DOING,
    "How far an update moves the policy": MOVING,
    "What becomes of the policy": BECOMING,
}
MEASURES: Mapping[str, Measure] = {measure.key: measure for group in GROUPS.values() for measure in group}


def by_seed(measure: Measure, runs: Mapping[int, Ended]) -> dict[int, float]:
    """{seed: figure} of a cell's runs."""
    return {seed: measure.of(run) for seed, run in runs.items()}
