from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

from actors.errors import PolicyVersionError
from services.evaluation.estimate import Estimate
from services.evaluation.results import Result, Summary, write_result
from services.policy import orders
from services.policy.ranking import best, metrics_by_step, worth_keeping


def log(file: Path, *rows: Mapping[str, object]) -> None:
    with file.open("a", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in rows)


def version(run_dir: Path, step: int) -> None:
    (run_dir / "policies" / f"step-{step}").mkdir(parents=True)
    (run_dir / "policies" / f"step-{step}" / "manifest.json").touch()


def test_a_steps_figures_come_from_every_file_that_has_some(tmp_path: Path) -> None:
    assert metrics_by_step(tmp_path) == {}
    log(tmp_path / "metrics.jsonl", {"step": 1, "reward/mean": 0.25, "loss": 3.0}, {"step": 2, "reward/mean": None})
    log(tmp_path / "evaluation.jsonl", {"step": 0, "sampled": 0.125, "greedy": 0.5, "samples": []}, {"step": 1, "sampled": 0.75})
    assert metrics_by_step(tmp_path) == {
        0: {"eval/sampled": 0.125, "eval/greedy": 0.5},
        1: {"reward/mean": 0.25, "eval/sampled": 0.75},
    }


def test_new_figures_are_seen_and_a_half_written_line_is_not(tmp_path: Path) -> None:
    file = tmp_path / "evaluation.jsonl"
    log(file, {"step": 0, "greedy": 0.5})
    assert metrics_by_step(tmp_path) == {0: {"eval/greedy": 0.5}}
    with file.open("a") as stream:
        stream.write('{"step": 4, "greedy": 0.7')
    assert metrics_by_step(tmp_path) == {0: {"eval/greedy": 0.5}}
    with file.open("a") as stream:
        stream.write("5}\n")
    assert metrics_by_step(tmp_path) == {0: {"eval/greedy": 0.5}, 4: {"eval/greedy": 0.75}}


def test_a_step_done_again_has_its_later_figures_and_none_that_is_no_number(tmp_path: Path) -> None:
    log(tmp_path / "evaluation.jsonl", {"step": 4, "greedy": 0.5}, {"step": 4, "greedy": 0.25}, {"step": 8, "greedy": float("nan")})
    assert metrics_by_step(tmp_path) == {4: {"eval/greedy": 0.25}}


def test_what_suites_found_counts_as_soon_as_it_is_written(tmp_path: Path) -> None:
    def found(step: int, share: float) -> Result:
        summary = Summary(10, 1, {1: Estimate(share, 0.0, 1.0)}, share, 0.0, 0, 0, 5.0, 1.0)
        return Result("paper", "digest", step, "weights", datetime.now(UTC), summary, {"aime24": summary})

    log(tmp_path / "evaluation.jsonl", {"step": 4, "greedy": 0.5})
    write_result(tmp_path, found(4, 0.25))
    assert metrics_by_step(tmp_path) == {4: {"eval/greedy": 0.5, "paper/pass@1": 0.25}}
    write_result(tmp_path, found(8, 0.125))
    metrics = metrics_by_step(tmp_path)
    assert metrics == {4: {"eval/greedy": 0.5, "paper/pass@1": 0.25}, 8: {"paper/pass@1": 0.125}}
    assert best(metrics, "paper/pass@1", metrics) == 4


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "evaluation.jsonl").write_text('{"step": 0, "greedy": 0.5}\n{"step": 4, "gre\n{"step": 8, "greedy": 0.5}\n')
    with pytest.raises(PolicyVersionError, match=r"evaluation\.jsonl: line 2: "):
        metrics_by_step(tmp_path)


METRICS = {0: {"eval/greedy": 0.5}, 4: {"eval/greedy": 0.75, "reward/mean": 0.1}, 8: {"eval/greedy": 0.75}, 12: {"eval/greedy": 1.0}}


@pytest.mark.parametrize(
    ("by", "among", "step"),
    [
        ("eval/greedy", [0, 4, 8, 12], 12),
        ("eval/greedy", [8, 4, 0], 4),  # of equal ones the older
        ("reward/mean", [0, 4, 8, 12], 4),
        ("eval/greedy", [16], None),
        ("paper/pass@1", [0, 4, 8, 12], None),
        ("eval/greedy", [], None),
    ],
)
def test_the_best_has_the_greatest_value_among_those_that_are_there(by: str, among: list[int], step: int | None) -> None:
    assert best(METRICS, by, among) == step


def test_the_best_version_there_is_and_what_was_ordered_are_worth_keeping(tmp_path: Path) -> None:
    policies = str(tmp_path / "policies")
    protected = pickle.loads(pickle.dumps(partial(worth_keeping, tmp_path, policies, by="eval/greedy")))
    assert protected() == set()
    for step in (0, 4, 8):
        version(tmp_path, step)
    log(tmp_path / "evaluation.jsonl", *({"step": step, "greedy": step / 16} for step in (0, 4, 8, 12)))
    assert protected() == {8}
    orders.write(policies, orders.Orders().pin(4).promote(0))
    assert protected() == {0, 4, 8}


def test_nothing_is_said_to_be_worthless_while_the_orders_cannot_be_read(tmp_path: Path) -> None:
    version(tmp_path, 4)
    (tmp_path / "policies" / "serving.json").write_text("{")
    with pytest.raises(PolicyVersionError, match=r"serving\.json"):
        worth_keeping(tmp_path, str(tmp_path / "policies"), by="eval/greedy")
