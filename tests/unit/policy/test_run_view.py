"""The routes that tell what a run remembers, over made-up run directories, whole and partial."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as parquet  # type: ignore[import-untyped]
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from services.evaluation.estimate import Estimate
from services.evaluation.results import Result, Summary, write_result
from services.policy.run_view import run_routes


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_rollouts(run_dir: Path, step: int, outcomes: list[str], **columns: Any) -> None:
    """One response an outcome, four to a prompt."""
    rows = [
        {
            "step": step,
            "ordinal": at // 4,
            "sample": at % 4,
            "prompt": f"question {at // 4}",
            "response": f"answer {at}",
            "score": float(outcome == "right"),
            "outcome": outcome,
            "version_oldest": step - 1,
            "version_newest": step,
            "advantage": 0.5,
            **columns,
        }
        for at, outcome in enumerate(outcomes)
    ]
    (run_dir / "rollouts").mkdir(exist_ok=True)
    parquet.write_table(pa.Table.from_pylist(rows), run_dir / "rollouts" / f"step-{step:06d}.parquet")


def serving(run_dir: Path) -> TestClient:
    app = FastAPI()
    app.include_router(run_routes(run_dir))
    return TestClient(app)


def answer(client: TestClient, path: str, **query: Any) -> dict[str, Any]:
    body: dict[str, Any] = client.get(path, params=query).raise_for_status().json()
    return body


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    run_dir = tmp_path / "digits"
    run_dir.mkdir()
    (run_dir / "config.yaml").write_text("run:\n  name: digits\n  steps: 40\n")
    write_lines(run_dir / "metrics.jsonl", [{"step": step, "reward/mean": step / 10} for step in (1, 2, 3)])
    write_lines(run_dir / "evaluation.jsonl", [{"step": step, "greedy": 0.25, "sampled": 0.125, "n": 8} for step in (0, 3)])
    write_rollouts(run_dir, 1, ["right", "wrong"])
    write_rollouts(run_dir, 3, ["right", "wrong", "wrong", "timeout"] * 5)
    return run_dir


def test_a_run_says_how_far_it_is(run_dir: Path) -> None:
    client = serving(run_dir)
    assert answer(client, "/v1/run") == {"name": "digits", "step": 3, "steps": 40}
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "reward/mean": 0.5}\n')
    assert answer(client, "/v1/run")["step"] == 4


def test_an_empty_run_directory_has_an_answer_to_everything(tmp_path: Path) -> None:
    client = serving(tmp_path)
    assert answer(client, "/v1/run") == {"name": tmp_path.name, "step": 0, "steps": None}
    assert answer(client, "/v1/run/charts") == {"charts": [], "series": {}}
    assert answer(client, "/v1/run/evaluations") == {"data": []}
    assert answer(client, "/v1/run/rollouts") == {"steps": [], "step": None, "total": 0, "data": []}


def test_curves_come_as_drawings_and_as_figures(run_dir: Path) -> None:
    body = answer(serving(run_dir), "/v1/run/charts")
    assert [(chart["title"], chart["series"]) for chart in body["charts"]] == [
        ("Held-out accuracy", ["eval/sampled", "eval/greedy"]),
        ("Reward", ["reward/mean"]),
    ]
    assert body["series"]["reward/mean"] == {"steps": [1, 2, 3], "values": [0.1, 0.2, 0.3], "low": None, "high": None}
    assert body["series"]["eval/greedy"]["steps"] == [0, 3]
    for chart in body["charts"]:
        assert chart["note"]
        drawing = ElementTree.fromstring(chart["svg"].replace("<svg", '<svg xmlns:xlink="x"', 1))  # as strictly as the page parses it
        assert drawing.tag == "svg" and drawing.findall(".//path")


def test_figures_that_are_no_numbers_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "reward/mean": NaN}\n{"step": 2, "reward/mean": 0.5}\n{"step": 3, "rew')
    assert answer(serving(tmp_path), "/v1/run/charts")["series"]["reward/mean"]["steps"] == [2]


def result(step: int, *, half_width: float = 0.1) -> Result:
    whole = Summary(
        problems=9,
        samples=4,
        pass_at={k: Estimate(value, value - half_width, value + half_width) for k, value in ((1, 0.25), (2, 0.4), (4, 0.5))},
        score=0.25,
        truncated=0.0,
        ungraded=0,
        left_out=0,
        length=7.0,
        seconds=1.0,
    )
    created = datetime(2026, 1, 1, tzinfo=UTC)
    return Result(suite="held_out", digest="d", step=step, weights="w", created=created, overall=whole, sets={"digits": whole})


def test_a_suite_comes_with_its_intervals(run_dir: Path) -> None:
    for step in (0, 5):
        write_result(run_dir, result(step))
    client = serving(run_dir)
    body = answer(client, "/v1/run/charts")
    assert [(chart["title"], chart["series"]) for chart in body["charts"]][2:] == [
        ("Suite held_out", ["held_out/pass@1", "held_out/pass@4"]),
    ]
    assert body["series"]["held_out/pass@1"] == {"steps": [0, 5], "values": [0.25, 0.25], "low": [0.15, 0.15], "high": [0.35, 0.35]}
    for step in (0, 5):
        write_result(run_dir, result(step, half_width=0.2))
    assert answer(client, "/v1/run/charts")["charts"][2]["svg"] != body["charts"][2]["svg"]  # the band is seen


def test_the_results_of_the_suites_come_as_rows(run_dir: Path) -> None:
    client = serving(run_dir)
    assert answer(client, "/v1/run/evaluations") == {"data": []}
    write_result(run_dir, result(5))
    row = {"suite": "held_out", "step": 5, "pass@1": 0.25, "low": 0.15, "high": 0.35, "problems": 9, "samples": 4}
    assert answer(client, "/v1/run/evaluations") == {"data": [row]}


def test_polling_costs_nothing_until_a_file_changes(run_dir: Path) -> None:
    client = serving(run_dir)
    first = client.get("/v1/run/charts")
    known = {"if-none-match": first.headers["etag"]}
    again = client.get("/v1/run/charts", headers=known)
    assert (again.status_code, again.content) == (304, b"")
    assert client.get("/v1/run/charts").content == first.content
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "reward/mean": 0.5}\n')
    changed = client.get("/v1/run/charts", headers=known)
    assert changed.status_code == 200
    assert changed.json()["series"]["reward/mean"]["steps"] == [1, 2, 3, 4]


def test_rollouts_are_of_the_newest_step_unless_asked_otherwise(run_dir: Path) -> None:
    client = serving(run_dir)
    newest = answer(client, "/v1/run/rollouts", limit=1)
    assert (newest["steps"], newest["step"], newest["total"]) == ([1, 3], 3, 20)
    assert newest["data"] == [
        {
            "step": 3,
            "ordinal": 0,
            "sample": 0,
            "prompt": "question 0",
            "response": "answer 0",
            "score": 1.0,
            "outcome": "right",
            "version_oldest": 2,
            "version_newest": 3,
            "advantage": 0.5,
        }
    ]
    assert answer(client, "/v1/run/rollouts", step=1)["total"] == 2


def test_rollouts_are_filtered_before_they_are_paged(run_dir: Path) -> None:
    client = serving(run_dir)
    page = answer(client, "/v1/run/rollouts", outcome="wrong", offset=8, limit=5)
    assert page["total"] == 10
    assert [row["response"] for row in page["data"]] == ["answer 17", "answer 18"]
    assert answer(client, "/v1/run/rollouts", outcome="oom") == {"steps": [1, 3], "step": 3, "total": 0, "data": []}
    assert answer(client, "/v1/run/rollouts", offset=99)["data"] == []


@pytest.mark.parametrize("query", [{"outcome": "splendid"}, {"step": -1}, {"step": 10**30}, {"offset": -1}, {"limit": 0}, {"limit": 101}])
def test_what_cannot_be_meant_is_refused(run_dir: Path, query: dict[str, Any]) -> None:
    assert serving(run_dir).get("/v1/run/rollouts", params=query).status_code == 422


def test_a_step_without_rollouts_or_with_broken_ones_is_told(run_dir: Path) -> None:
    client = serving(run_dir)
    assert "step 2 has no rollouts" in client.get("/v1/run/rollouts", params={"step": 2}).text
    (run_dir / "rollouts" / "step-000003.parquet").write_bytes(b"PAR1 torn")
    broken = client.get("/v1/run/rollouts")
    assert broken.status_code == 404
    assert "step 3 cannot be read" in broken.text


def test_a_damaged_file_is_told_and_does_not_hide_the_rest(run_dir: Path) -> None:
    (run_dir / "evaluation.jsonl").write_text('{"step": 0, "gre{"step": 1}\n')
    client = serving(run_dir)
    assert client.get("/v1/run/charts").status_code == 404
    assert "cannot be read" in client.get("/v1/run/charts").text
    assert client.get("/v1/run/rollouts").status_code == 200


def test_records_of_others_may_lack_columns_and_numbers(run_dir: Path) -> None:
    write_rollouts(run_dir, 4, ["right"], advantage=float("nan"), score=None)
    parquet.write_table(pa.Table.from_pylist([{"response": "bare"}]), run_dir / "rollouts" / "step-000005.parquet")
    client = serving(run_dir)
    [row] = answer(client, "/v1/run/rollouts", step=4)["data"]
    assert row["score"] is row["advantage"] is None
    [bare] = answer(client, "/v1/run/rollouts", step=5)["data"]
    assert (bare["prompt"], bare["response"], bare["outcome"]) == ("", "bare", None)
    assert answer(client, "/v1/run/rollouts", step=5, outcome="right")["total"] == 0
