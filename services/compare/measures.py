"""What a run is told to have come to, one figure each, declared once: `gmpo compare` and the pages of studies mean the same by a name."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from services.compare.series import RunCurves

OverSteps = Callable[[np.ndarray], float]
LAST, ALL, END = "last evaluation", "mean over the steps", "mean over the last tenth of the steps"


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure of a run; nan where the run did not write what it is made of."""

    key: str
    title: str
    """Heads its column; no other measure has it."""
    unit: str
    """Empty where it has none."""
    what: str
    over: str
    """How the steps become one figure."""
    of: Callable[[RunCurves], float]
    digits: int = 3

    @property
    def head(self) -> str:
        """Title and unit, as above a column or beside an axis."""
        return f"{self.title} [{self.unit}]" if self.unit else self.title


def started(run: RunCurves) -> float:
    """Held-out accuracy before the first step."""
    steps, values = run.curve("eval/sampled")
    return float(values[0]) if len(steps) and steps[0] == 0 else math.nan


def mean(values: np.ndarray) -> float:
    """Of all steps."""
    return float(values.mean())


def end(values: np.ndarray) -> float:
    """Mean over the last tenth."""
    return mean(last_tenth(values))


def last_tenth(values: np.ndarray) -> np.ndarray:
    """One value at least."""
    return values[-max(1, len(values) // 10) :]


def _metric(name: str, over_steps: OverSteps) -> Callable[[RunCurves], float]:
    return lambda run: _over(run.curve(name)[1], over_steps)


def _width(low: str, high: str, over_steps: OverSteps) -> Callable[[RunCurves], float]:
    def width(run: RunCurves) -> float:
        nothing = np.full(len(run.steps), np.nan)
        widths = run.metrics.get(high, nothing) - run.metrics.get(low, nothing)
        return _over(widths[np.isfinite(widths)], over_steps)

    return width


def _over(values: np.ndarray, over_steps: OverSteps) -> float:
    return float(over_steps(values)) if len(values) else math.nan


def _unsteadiness(norms: np.ndarray) -> float:
    return float(norms.std() / norms.mean()) if norms.mean() > 0 else math.nan


def _farthest(weights: np.ndarray) -> float:
    positive = weights[weights > 0]
    return float(np.abs(np.log(positive)).max()) if len(positive) else math.nan


def _collapsed(run: RunCurves) -> float:
    before, after = started(run), MEASURES["accuracy"].of(run)
    return float(after < before / 2) if math.isfinite(before + after) else math.nan


_MIN, _MAX, _P01, _P99 = (f"learner/log_ratio_{edge}" for edge in ("min", "max", "p01", "p99"))
_RIGHT = "share of {} answers to held-out questions that are right"
_ENTROPY = "next-token entropy of the tokens learned from"
_KL = "KL to the starting policy (k3 estimate) of the tokens learned from"
_CLIPPED = "share of tokens (of responses, where whole ones are clipped) whose clip binds"

_ALL = (
    Measure("accuracy", "held-out accuracy", "", _RIGHT.format("sampled"), LAST, _metric("eval/sampled", lambda values: values[-1])),
    Measure("greedy", "held-out accuracy, greedy", "", _RIGHT.format("greedy"), LAST, _metric("eval/greedy", lambda values: values[-1])),
    Measure("reward", "mean reward", "", "reward of a response, the area under its curve", ALL, _metric("reward/mean", mean)),
    Measure("clip", "clip fraction", "", _CLIPPED, ALL, _metric("learner/clip_fraction", mean), 4),
    Measure(
        key="range",
        title="log-ratio range",
        unit="nats",
        what="greatest less least log-ratio of a token in a step, current to old policy",
        over="median over the steps",
        of=_width(_MIN, _MAX, np.median),
        digits=2,
    ),
    Measure(
        key="bulk",
        title="log-ratio range of 98 %",
        unit="nats",
        what="99th less 1st percentile of the tokens' log-ratios in a step",
        over="median over the steps",
        of=_width(_P01, _P99, np.median),
    ),
    Measure(
        key="widest",
        title="widest log-ratio range",
        unit="nats",
        what="greatest less least log-ratio of a token in a step",
        over="greatest over the steps",
        of=_width(_MIN, _MAX, np.max),
        digits=2,
    ),
    Measure(
        key="weight",
        title="farthest mean response weight",
        unit="nats",
        what="size of ln w, w being the mean over a step's responses of the weight that the objective gives one by its ratio",
        over="greatest over the steps",
        of=_metric("learner/sequence_ratio", _farthest),
    ),
    Measure("entropy", "entropy", "nats", _ENTROPY, ALL, _metric("learner/entropy", mean)),
    Measure("entropy_end", "entropy at the end", "nats", _ENTROPY, END, _metric("learner/entropy", end)),
    Measure(
        key="kl",
        title="KL to the start, median",
        unit="nats",
        what=_KL,
        over="median over the last tenth of the steps, blind to rare tokens",
        of=_metric("learner/kl_ref", lambda values: np.median(last_tenth(values))),
    ),
    Measure(
        key="kl_mean",
        title="KL to the start, mean",
        unit="nats",
        what=_KL,
        over=f"{END}, which few tokens can decide",
        of=_metric("learner/kl_ref", end),
    ),
    Measure("grad_norm", "gradient norm", "", "norm of the gradient before it is clipped", ALL, _metric("learner/grad_norm", mean)),
    Measure(
        key="unsteadiness",
        title="gradient unsteadiness",
        unit="",
        what="standard deviation of the gradient norm",
        over="over the steps, divided by the mean",
        of=_metric("learner/grad_norm", _unsteadiness),
    ),
    Measure("length", "response length", "tokens", "length of a response", END, _metric("generation/length_mean", end), 1),
    Measure(
        key="collapsed",
        title="collapsed",
        unit="",
        what="whether less than half of the held-out accuracy before the first step was left (1) or not (0)",
        over=LAST,
        of=_collapsed,
    ),
)
MEASURES = {measure.key: measure for measure in _ALL}
