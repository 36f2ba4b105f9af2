"""The declarations are the single source: names, units and what happens without one."""

from __future__ import annotations

import re

import pytest

from actors.errors import MetricError
from services.telemetry.metrics import METRICS, declared


def test_every_metric_has_one_valid_name_in_each_world() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    assert len({metric.prometheus_name for metric in METRICS}) == len(METRICS)
    for metric in METRICS:
        assert re.fullmatch(r"[a-z]+(/[a-z_0-9]+)+(/\*)?", metric.name)
        assert re.fullmatch(r"gmpo_[a-z_0-9]+[a-z0-9]", metric.prometheus_name)
        assert metric.prometheus_name.endswith("_total") == (metric.kind == "counter")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("queue/wait_s", "gmpo_queue_wait_seconds"),
        ("step/seconds", "gmpo_step_seconds"),
        ("generation/tokens", "gmpo_generation_tokens_total"),
        ("generation/tokens_per_s", "gmpo_generation_tokens_per_second"),
        ("learner/entropy", "gmpo_learner_entropy_nats"),
        ("reward/mean", "gmpo_reward_mean"),
        ("reward/part/format", "gmpo_reward_part"),
    ],
)
def test_prometheus_names_spell_units_out_once(name: str, expected: str) -> None:
    assert declared(name).prometheus_name == expected


def test_an_undeclared_name_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(MetricError, match=r"learner/entropi.*did you mean 'learner/entropy'"):
        declared("learner/entropi")
    with pytest.raises(MetricError):
        declared("staleness/part/format")
