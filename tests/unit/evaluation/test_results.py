"""Results as the endpoint and the page read them."""

from __future__ import annotations

import logging
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from services.evaluation.estimate import Estimate
from services.evaluation.results import Result, Summary, metrics_of, read_results, result_path, rows, series, write_result

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def summary(share: float) -> Summary:
    pass_at = {1: Estimate(share, share / 2, min(1.0, share * 2)), 8: Estimate(1.0, 0.9, 1.0)}
    return Summary(30, 8, pass_at, share, 0.25, 3, 1, 120.5, 9.0)


def result(step: int, share: float, *, suite: str = "paper", digest: str = "d", minutes: int = 0) -> Result:
    sets = {"aime24": summary(share), "amc": summary(share)} if suite == "paper" else {"one": summary(share)}
    return Result(suite, digest, step, "w" * 64, NOON + timedelta(minutes=minutes), summary(share), sets)


def test_results_come_back_as_they_were_written(tmp_path: Path) -> None:
    written = [result(10, 0.5), result(2, 0.25), result(4, 0.3, suite="amc")]
    for one in written:
        write_result(tmp_path, one)
    assert read_results(tmp_path) == [written[2], written[1], written[0]]
    assert result_path(tmp_path, "paper", 10) == tmp_path / "evaluations" / "paper" / "step-10.json"


def test_a_run_without_evaluations_has_no_results(tmp_path: Path) -> None:
    assert read_results(tmp_path) == [] and metrics_of([]) == {}


def test_what_is_no_result_is_left_out_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_result(tmp_path, result(2, 0.25))
    result_path(tmp_path, "paper", 3).write_text('{"suite": "paper"}')
    (tmp_path / "evaluations" / "paper" / "notes.json").write_text("{}")
    with caplog.at_level(logging.WARNING):
        assert [one.step for one in read_results(tmp_path)] == [2]
    assert "step-3.json" in caplog.text and "notes.json" not in caplog.text


def test_metrics_are_by_step_and_sets_are_named_where_there_are_several() -> None:
    metrics = metrics_of([result(2, 0.25), result(2, 0.5, suite="amc")])
    assert metrics == {
        2: {
            "paper/pass@1": 0.25,
            "paper/pass@8": 1.0,
            "paper/aime24/pass@1": 0.25,
            "paper/aime24/pass@8": 1.0,
            "paper/amc/pass@1": 0.25,
            "paper/amc/pass@8": 1.0,
            "amc/pass@1": 0.5,
            "amc/pass@8": 1.0,
        }
    }


def test_results_of_a_suite_that_has_changed_since_are_not_compared_with_later_ones() -> None:
    results = [
        result(2, 0.9, digest="old"),
        result(4, 0.3, minutes=1),
        result(6, 0.4, minutes=2),
        result(2, 0.8, suite="amc", digest="old"),
    ]
    assert {step: figures.get("paper/pass@1") for step, figures in metrics_of(results).items()} == {2: None, 4: 0.3, 6: 0.4}
    assert series(results)["paper/pass@1"] == {"steps": [4, 6], "values": [0.3, 0.4], "low": [0.15, 0.2], "high": [0.6, 0.8]}
    assert [(row["suite"], row["step"], row["pass@1"], row["samples"]) for row in rows(results)] == [
        ("paper", 4, 0.3, 8),
        ("paper", 6, 0.4, 8),
        ("amc", 2, 0.8, 8),
    ]


def test_reading_results_imports_nothing_heavy() -> None:
    program = "import sys, services.evaluation.results; print({'torch', 'transformers', 'ray', 'openai', 'numpy'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
