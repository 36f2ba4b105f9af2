"""The report from made-up runs, whole and partial."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as parquet  # type: ignore[import-untyped]
import pytest

from services.telemetry.report import write_report

METRICS = {"reward/mean": 0.5, "learner/entropy": 0.4, "step/seconds": 2.0, "learner/updates": 8.0, "learner/mismatch": 3e-6}
EVIL = "<script>alert(1)</script><img src=https://example.com/x.png>"


class Page(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.words: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in {"src", "href", "xlink:href", "action", "data"}]

    def handle_data(self, data: str) -> None:
        self.words.append(data.strip())

    @property
    def text(self) -> str:
        return " ".join(word for word in self.words if word)


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_rollouts(run_dir: Path, step: int, rows: list[dict[str, Any]]) -> None:
    (run_dir / "rollouts").mkdir(exist_ok=True)
    parquet.write_table(pa.Table.from_pylist(rows), run_dir / "rollouts" / f"step-{step}.parquet")


def rollout(step: int, outcome: str, response: str) -> dict[str, Any]:
    return {
        "step": step,
        "ordinal": 7,
        "sample": 0,
        "prompt": f"question of step {step}",
        "response": response,
        "score": 1.0,
        "outcome": outcome,
        "version_oldest": step - 1,
        "version_newest": step,
        "advantage": 0.87,
    }


@pytest.fixture
def whole_run(tmp_path: Path) -> Path:
    run_dir = tmp_path / "digits & co"
    run_dir.mkdir()
    (run_dir / "config.yaml").write_text("objective:\n  type: gmpo\n")
    write_lines(run_dir / "metrics.jsonl", [{"step": step, "time": 0.0, **METRICS, "reward/mean": step / 100} for step in range(1, 91)])
    sample = {"prompt": "483920=", "answer": "029384"}
    write_lines(
        run_dir / "evaluation.jsonl",
        [
            {"step": 0, "sampled": 0.47, "greedy": 0.56, "n": 2, "samples": [{**sample, "response": EVIL, "score": 0.0}]},
            {"step": 90, "sampled": 0.91, "greedy": 0.99, "n": 2, "samples": [{**sample, "response": "029384", "score": 1.0}]},
        ],
    )
    write_rollouts(run_dir, 9, [rollout(9, "right", "first right"), rollout(9, "wrong", EVIL)])
    write_rollouts(run_dir, 90, [rollout(90, "right", "last right"), rollout(90, "timeout", "x" * 5000)])
    return run_dir


def test_the_report_tells_what_changed(whole_run: Path) -> None:
    path = write_report(whole_run)
    assert path == whole_run / "report.html"
    text = Page(path).text
    for shown in ("digits & co", "0.470 → 0.910", "0.560 → 0.990", "720 optimizer updates", "3:00", "type: gmpo"):
        assert shown in text, shown
    for shown in (
        "483920=",
        "Step 9: 1 of 2 right",
        "Step 90: 1 of 2 right",
        "first right",
        "last right",
        "timeout",
        "1000 more characters",
    ):
        assert shown in text, shown
    assert "version 8–9" in text  # noqa: RUF001
    assert {"Held-out accuracy", "Entropy", "Step time"} <= set(Page(path).words)
    assert "Staleness" not in text  # no data, no chart


def test_the_report_is_self_contained_and_a_model_cannot_write_into_it(whole_run: Path) -> None:
    page = Page(write_report(whole_run))
    assert not {"script", "link", "img", "iframe", "object", "base"} & set(page.tags)
    assert page.links and all(link.startswith("#") for link in page.links)  # markers inside the drawings
    assert page.text.count(EVIL) == 2
    source = (whole_run / "report.html").read_text().replace("https://example.com/x.png", "")
    assert "http://" not in source and "https://" not in source


def test_axes_name_their_units(whole_run: Path) -> None:
    words = Page(write_report(whole_run)).words
    for unit in ("step", "fraction right", "nats", "seconds"):
        assert unit in words


def test_the_same_run_gives_the_same_page(whole_run: Path) -> None:
    first = write_report(whole_run).read_bytes()
    assert write_report(whole_run).read_bytes() == first


def test_an_empty_run_has_a_report(tmp_path: Path) -> None:
    assert "No step has finished yet." in Page(write_report(tmp_path)).text


def test_one_step_with_missing_columns_and_a_torn_line(tmp_path: Path) -> None:
    write_lines(tmp_path / "metrics.jsonl", [{"step": 1, "time": 0.0, "reward/mean": 0.5, "learner/loss": None, "learner/mismatch": 0.0}])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "re')
    write_rollouts(tmp_path, 1, [{"prompt": "p", "response": ""}])
    text = Page(write_report(tmp_path)).text
    for shown in ("0.500", "at step 1", "(empty)", "unknown"):
        assert shown in text, shown


def test_rollouts_without_text_are_left_out(tmp_path: Path) -> None:
    write_rollouts(tmp_path, 1, [{"step": 1, "score": 1.0}])
    assert "Training rollouts" not in Page(write_report(tmp_path)).text
