"""Policy objectives: pure functions of a micro-batch and the totals of its update. `build` is the one factory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import TypeAdapter

from actors.learner.objective_config import GmpoConfig, GrpoConfig, ObjectiveConfig
from actors.learner.objectives.gmpo import Gmpo
from actors.learner.objectives.grpo import Grpo
from actors.learner.objectives.terms import BatchTotals, Objective, ObjectiveResult, PolicyTerms

__all__ = ["BatchTotals", "Objective", "ObjectiveResult", "PolicyTerms", "build"]

_OBJECTIVES: dict[type, Callable[[Any], Objective]] = {GmpoConfig: Gmpo, GrpoConfig: Grpo}
_ADAPTER: TypeAdapter[GmpoConfig | GrpoConfig] = TypeAdapter(ObjectiveConfig)


def build(config: ObjectiveConfig | Mapping[str, Any]) -> Objective:
    """The objective that a config object, or a mapping with `type` as its tag, describes."""
    parsed = _ADAPTER.validate_python(config)
    return _OBJECTIVES[type(parsed)](parsed)
