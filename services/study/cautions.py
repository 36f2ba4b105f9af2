"""What to keep in mind with a study's figures: settings and noise that they do not show by themselves, told by rule."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from statistics import median

from actors.learner.config import AdamWConfig
from services.config import Recipe
from services.study.claims import MARGIN
from services.study.measures import figure
from services.study.records import DONE, Records
from services.study.tables import number

Recipes = Mapping[str, Recipe]
"""By the cell's name."""


def cautions(records: Records) -> Iterator[str]:
    """Sentences, each where it applies."""
    study = records.study
    recipes = {cell.name: study.recipe(cell, study.seeds[0]) for cell in study.cells}
    yield from _origins(records)
    yield from _noise(records, recipes)
    yield from _tuning(recipes)
    yield from study.config.notes
    yield from _still_climbing(records)
    yield from _objectives({cell.levels[0]: recipes[cell.name] for cell in study.cells})
    yield from _unlike(recipes)


def _origins(records: Records) -> Iterator[str]:
    """Runs that did not begin alike though they should have, or that were not made by the same code."""
    starts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for run in records.ended:
        if run.start:
            starts[json.dumps([run.curves.recipe["policy"], run.curves.recipe["prompts"]])][run.start] += 1
    for found in starts.values():
        if len(found) > 1:
            yield f"These runs did not all begin with the same weights: {_counted(found)}. They differ by more than their levels."
    packages: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for run in records.ended:
        for name, version in run.packages.items():
            packages[name][version] += 1
    for name, found in packages.items():
        if len(found) > 1:
            yield f"These runs were not all made with the same {name}: {_counted(found)}."


def _counted(found: Counter[str]) -> str:
    return ", ".join(f"{one} in {count}" for one, count in found.items())


def _noise(records: Records, recipes: Recipes) -> Iterator[str]:
    recipe = next(iter(recipes.values()))
    questions, samples = recipe.prompts.held_out, recipe.evaluation.samples
    ends = [share for run in records.ended if run.outcome == DONE and math.isfinite(share := figure("accuracy", run))]
    if not questions or not ends:
        return
    middle = median(ends)
    alike = math.sqrt(middle * (1 - middle) / questions)
    yield (
        f"An accuracy of {number(middle, 2)} by {questions} questions, {samples} sampled answers to each, has a standard error between "
        f"{number(alike / math.sqrt(samples), 3)} (if answers to one question differ as those to two do) and {number(alike, 3)} "
        f"(if they never differ). All runs are asked the same questions, so a part of it cancels in differences; what less than the margin "
        f"of {MARGIN} sets apart is taken to be alike."
    )


def _tuning(recipes: Recipes) -> Iterator[str]:
    rates = {_rate(recipe.learner.optimizer) for recipe in recipes.values()}
    kinds = {recipe.learner.objective.type for recipe in recipes.values()}
    if len(rates) == 1 and len(kinds) > 1:
        yield f"One learning rate, {rates.pop()}, for all objectives: it is tuned for none by itself."


def _rate(optimizer: AdamWConfig) -> str:
    return f"{optimizer.lr:g}" + (f" ({optimizer.schedule} to {optimizer.lr_end:g})" if optimizer.schedule != "constant" else "")


def _still_climbing(records: Records) -> Iterator[str]:
    gains = []
    for run in records.ended:
        steps, shares = run.curves.curve("eval/sampled")
        if run.outcome == DONE and len(steps) > 1:
            gains.append((float(shares[-1] - shares[-2]), int(steps[-2]), int(steps[-1])))
    if gains and (gain := median(each for each, _, _ in gains)) > MARGIN:
        _, before, last = gains[0]
        yield (
            f"Accuracy still climbs at the end, by {number(gain, 3)} from step {before} to step {last} (median of the runs): final "
            "accuracy is how fast a run learns as much as how far it gets."
        )


def _objectives(levels: Recipes) -> Iterator[str]:
    for name, recipe in levels.items():
        objective = recipe.learner.objective
        if objective.type == "dapo" and not recipe.replay.dynamic_sampling and recipe.reward.overlong is None:
            yield f"`{name}` is DAPO's loss alone: no dynamic sampling, no shaping of overlong responses."
        if objective.type == "gspo" and objective.clip_high < 0.01 and recipe.generation.max_tokens < 1000:
            yield (
                f"`{name}` has its paper's clip ({objective.clip_low:g} and {objective.clip_high:g}), for long responses: the mean over a "
                "short one leaves 1 farther, and far more responses are clipped (clip fraction)."
            )


def _unlike(recipes: Recipes) -> Iterator[str]:
    """Settings under which a measure does not compare like with like."""
    filtering = [name for name, recipe in recipes.items() if recipe.replay.dynamic_sampling]
    if filtering:
        yield (
            f"The mean reward of {', '.join(filtering)} is of the groups that dynamic sampling kept: it cannot be compared with that "
            "of the others."
        )
    shown = [name for name, recipe in recipes.items() if recipe.learner.denominator == "behaviour"]
    if shown and len(shown) < len(recipes):
        yield (
            "With ratios to the behaviour policy, entropy and KL are of the tokens of a step's first update, else of all its updates: "
            "of fewer tokens, under the same policy."
        )
    if any(recipe.learner.skip_zero_advantage for recipe in recipes.values()):
        yield (
            "Entropy, KL and log-ratios are of the tokens learned from: groups whose responses all earned the same are left out "
            "(`learner.skip_zero_advantage`), more of them the better a policy is."
        )
