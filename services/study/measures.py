"""What the results page tells of a run: the figures of `gmpo compare`, of a run that counts as if it had gone to its end.

A run that diverged must not vanish from the medians: its policy is broken, so its final accuracy is 0, and so is the reward of each step
that it did not reach. Where a run ended because there was nothing left to learn, the policy would have stood still: its last evaluation
holds, and its last reward stands for the steps it did not reach. All other figures are over the steps that a run made; a difference of two
runs is over the steps that both made, for entropy, KL and the like change with the steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from services.compare.measures import MEASURES, Measure
from services.compare.series import RunCurves
from services.study.records import DIVERGED, DONE, Ended

REWARD = "reward/mean"

GROUPS: Mapping[str, tuple[Measure, ...]] = {
    heading: tuple(MEASURES[key] for key in keys)
    for heading, keys in {
        "How well it does": ("accuracy", "greedy", "reward", "clip"),
        "How far an update moves the policy": ("range", "bulk", "widest", "weight"),
        "What becomes of the policy": ("entropy", "entropy_end", "kl", "kl_mean", "unsteadiness"),
    }.items()
}
TOLD = tuple(measure for group in GROUPS.values() for measure in group)
"""What is told of a study of one factor, in the order of its tables."""


def figure(key: str, run: Ended) -> float:
    """A measure of a run that ended, however it ended."""
    return MEASURES[key].of(whole(run))


def collapsed(run: Ended) -> bool:
    """Whether it ended with less than half of the held-out accuracy it began with."""
    return figure("collapsed", run) == 1


def whole(run: Ended) -> RunCurves:
    """Its curves, with rewards and an evaluation for the steps that it did not reach."""
    curves = run.curves
    if run.outcome == DONE:
        return curves
    steps = np.arange(_reached(run) + 1, run.steps_planned + 1)
    metrics = {name: np.concatenate([values, np.full(len(steps), np.nan)]) for name, values in curves.metrics.items()}
    rewards = curves.metrics.get(REWARD, np.full(len(curves.steps), np.nan))
    metrics[REWARD] = np.concatenate([rewards, np.full(len(steps), _after(run, REWARD))])
    last = {"step": run.steps_planned, "sampled": _after(run, "eval/sampled"), "greedy": _after(run, "eval/greedy")}
    return replace(curves, steps=np.concatenate([curves.steps, steps]), metrics=metrics, evaluations=(*curves.evaluations, last))


def _reached(run: Ended) -> int:
    """Its last step."""
    return int(run.curves.steps[-1]) if len(run.curves.steps) else 0


def _up_to(last: int, run: RunCurves) -> RunCurves:
    """The run without what it wrote after a step, but for what `whole` makes whole: rewards and evaluations."""
    metrics = {name: values if name == REWARD else np.where(run.steps <= last, values, np.nan) for name, values in run.metrics.items()}
    return replace(run, metrics=metrics)


def _after(run: Ended, metric: str) -> float:
    """What a run that ended early is taken to have from then on."""
    if run.outcome == DIVERGED:
        return 0.0
    values = run.curves.curve(metric)[1]
    return float(values[-1]) if len(values) else math.nan


def by_seed(measure: Measure, runs: Mapping[int, Ended]) -> dict[int, float]:
    """{seed: figure} of a cell's runs."""
    return {seed: measure.of(whole(run)) for seed, run in runs.items()}


def differences(measure: Measure, ours: Mapping[int, Ended], theirs: Mapping[int, Ended]) -> dict[int, float]:
    """{seed: ours less theirs} of two cells' runs, under the seeds that both have; nan where one has no such figure."""
    return {seed: _difference(measure, ours[seed], theirs[seed]) for seed in sorted(ours.keys() & theirs.keys())}


def _difference(measure: Measure, ours: Ended, theirs: Ended) -> float:
    both = min(_reached(ours), _reached(theirs))
    return measure.of(_up_to(both, whole(ours))) - measure.of(_up_to(both, whole(theirs)))
