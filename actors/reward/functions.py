"""Reward functions of the user's: found by import path, called one response at a time, in any of three signatures."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from actors.errors import ConfigError
from actors.types import Answer, Outcome, Verdict


@dataclass(frozen=True, slots=True)
class Sample:
    """One response and all that a reward may look at."""

    task: str
    response: str
    answer: Answer
    prompt: str = ""  # rendered
    columns: Mapping[str, Any] = field(default_factory=dict)  # the row's other columns


Scorer = Callable[[Sample], Verdict | None]
"""Grades one sample; None says that the reward does not apply to it."""


def load(path: str, style: str) -> Scorer:
    """The function at "package.module:name" behind the one signature used inside. Raises ConfigError if it cannot be imported."""
    module_name, _, name = path.partition(":")
    try:
        function = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"reward function {path!r}: {error}") from error
    if not callable(function):
        raise ConfigError(f"reward function {path!r} is not callable")
    call = _STYLES[style]
    return lambda sample: as_verdict(call(function, sample))


def as_verdict(value: Any) -> Verdict | None:
    """What a function returned, as a verdict: a number of at least 1 is right; verl's dict may say so itself under `acc`."""
    if value is None or isinstance(value, Verdict):
        return value
    score = float(value["score"] if isinstance(value, Mapping) else value)
    right = bool(value["acc"]) if isinstance(value, Mapping) and "acc" in value else score >= 1.0
    extracted = value.get("pred") if isinstance(value, Mapping) else None
    return Verdict(score, Outcome.RIGHT if right else Outcome.WRONG, None if extracted is None else str(extracted))


def _gmpo(function: Callable[..., Any], sample: Sample) -> Any:
    return function(sample.task, sample.response, sample.answer)


def _trl(function: Callable[..., Any], sample: Sample) -> Any:
    """TRL passes every column as a list, one element a response; the gold answer goes by any of its usual names."""
    golds = dict.fromkeys(("answer", "solution", "ground_truth"), sample.answer)
    columns = {name: [value] for name, value in {**golds, **sample.columns}.items() if name not in ("prompts", "completions")}
    parameters = inspect.signature(function).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        columns = {name: value for name, value in columns.items() if name in parameters}
    (score,) = function(prompts=[sample.prompt], completions=[sample.response], **columns)
    return score


def _verl(function: Callable[..., Any], sample: Sample) -> Any:
    extra = sample.columns.get("extra_info", sample.columns)
    return function(data_source=sample.task, solution_str=sample.response, ground_truth=sample.answer, extra_info=extra)


_STYLES: dict[str, Callable[[Callable[..., Any], Sample], Any]] = {"gmpo": _gmpo, "trl": _trl, "verl": _verl}
