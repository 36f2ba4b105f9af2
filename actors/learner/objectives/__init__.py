"""Policy objectives: pure functions of a micro-batch and the totals of its update. `build` is the one factory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from pydantic import TypeAdapter

from actors.learner.objective_config import (
    CispoConfig,
    DapoConfig,
    DrGrpoConfig,
    GmpoConfig,
    GrpoConfig,
    GspoConfig,
    ObjectiveConfig,
    PmpoConfig,
    PpoConfig,
    SapoConfig,
)
from actors.learner.objectives.cispo import cispo
from actors.learner.objectives.dapo import dapo
from actors.learner.objectives.dr_grpo import dr_grpo
from actors.learner.objectives.gmpo import gmpo
from actors.learner.objectives.grpo import grpo
from actors.learner.objectives.gspo import gspo
from actors.learner.objectives.pmpo import pmpo
from actors.learner.objectives.ppo import ppo
from actors.learner.objectives.sapo import sapo
from actors.learner.objectives.terms import BatchTotals, Objective, ObjectiveResult, PolicyTerms

__all__ = ["BatchTotals", "Objective", "ObjectiveResult", "PolicyTerms", "build"]

_OBJECTIVES: dict[type, Callable[[Any, PolicyTerms, BatchTotals], ObjectiveResult]] = {
    GmpoConfig: gmpo,
    PmpoConfig: pmpo,
    GrpoConfig: grpo,
    DrGrpoConfig: dr_grpo,
    DapoConfig: dapo,
    PpoConfig: ppo,
    GspoConfig: gspo,
    CispoConfig: cispo,
    SapoConfig: sapo,
}
_ADAPTER: TypeAdapter[ObjectiveConfig] = TypeAdapter(ObjectiveConfig)


def build(config: ObjectiveConfig | Mapping[str, Any]) -> Objective:
    """The objective that a config object, or a mapping with `type` as its tag, describes."""
    parsed = _ADAPTER.validate_python(config)
    return partial(_OBJECTIVES[type(parsed)], parsed)
