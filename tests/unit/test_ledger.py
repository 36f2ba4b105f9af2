from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from services.cli import app
from services.config import dump
from tests.unit.recipes import tiny_recipe
from tests.unit.replay.histories import plain_history, random_history, record


def ledger(run: Path, *arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["ledger", str(run), *map(str, arguments)])


def write_history(run: Path, events: list[dict[str, Any]]) -> None:
    (run / "ledger.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of three steps that is done, its first two steps recorded."""
    directory = tmp_path / "run"
    directory.mkdir()
    recipe = tiny_recipe("run.steps=3", "run.prompts_per_step=2", "learner.updates_per_step=1", "replay.max_staleness=1")
    (directory / "config.yaml").write_text(dump(recipe))
    write_history(directory, plain_history(3))
    record(directory / "rollouts", 1, 0, 1)
    record(directory / "rollouts", 2, 2, 3)
    return directory


def test_the_account_of_a_good_run(run: Path, tmp_path: Path) -> None:
    done = ledger(run, "--json", tmp_path / "account.json")
    assert done.exit_code == 0, done.output
    lines = {tuple(line.split()) for line in done.output.splitlines()}
    assert {("prompts", "trained", "6"), ("steps", "3"), ("publications", "4"), ("no", "rule", "is", "broken")} <= lines
    account = json.loads((tmp_path / "account.json").read_text())
    assert account["prompts"]["trained"] == 6 and account["finished"] is True and account["violations"] == []
    assert ledger(run, "--json", tmp_path / "nowhere" / "account.json").exit_code == 2


def test_reasons_for_which_prompts_were_dropped_are_told(run: Path) -> None:
    history = plain_history(3)
    dropped = [{"event": "admitted", "ordinals": [6], "version": 2}, {"event": "dropped", "ordinals": [6], "reason": "poisoned", "step": 3}]
    write_history(run, [*history[:-2], *dropped])
    done = ledger(run)
    assert done.exit_code == 0 and ["poisoned", "1"] in [line.split() for line in done.output.splitlines()]


def test_each_broken_rule_is_a_line_and_the_status_is_1(run: Path, tmp_path: Path) -> None:
    history = plain_history(3)
    history[history.index({"event": "published", "number": 3, "version": 2, "epoch": 1, "digest": ""})]["number"] = 7
    write_history(run, history)
    done = ledger(run, "--json", tmp_path / "account.json")
    assert done.exit_code == 1
    violations = json.loads((tmp_path / "account.json").read_text())["violations"]
    assert violations[0].endswith("published: publication 7 follows publication 2")
    assert done.output.splitlines()[-len(violations) - 1 :] == [*violations, f"broken rules: {len(violations)}"]


def test_the_recipe_s_staleness_bound_and_last_step_are_kept_to(run: Path) -> None:
    history = plain_history(3)
    for event in history:
        if event["event"] == "ready" and event["ordinals"] == [2]:
            event["versions"] = [-1, 1]
    write_history(run, history)
    assert "prompt 2 older than 1 versions" in ledger(run).output
    write_history(run, [*plain_history(3)[:-2], {"event": "admitted", "ordinals": [6], "version": 3}])
    assert "prompt 6 neither trained nor dropped" in ledger(run).output


def test_recorded_rollouts_must_be_those_that_were_trained_on(run: Path) -> None:
    path = record(run / "rollouts", 2, 2, 5)
    done = ledger(run)
    assert done.exit_code == 1
    assert f"{path}: holds prompts [2, 5], and step 2 was trained on [2, 3]" in done.output
    path.write_bytes(path.read_bytes()[:100])
    done = ledger(run)
    assert done.exit_code == 1 and f"{path}: not a whole file of groups" in done.output


def test_rollouts_of_a_step_that_a_restart_undid_are_no_fault(run: Path) -> None:
    record(run / "rollouts", 3, 8, 9)
    write_history(run, [*plain_history(3), {"event": "resumed", "session": "driver 2", "step": 1}])
    assert ledger(run).exit_code == 0


def test_a_history_that_a_kill_cut_off_is_read_up_to_its_last_whole_line(run: Path) -> None:
    write_history(run, random_history(3, steps=3))
    for path in (run / "rollouts").iterdir():
        path.unlink()
    with (run / "ledger.jsonl").open("a") as file:
        file.write('{"event": "resu')
    assert ledger(run).exit_code == 0


def test_what_is_no_run_or_no_history_ends_with_status_2(run: Path, tmp_path: Path) -> None:
    assert ledger(tmp_path / "nothing").exit_code == 2
    (run / "ledger.jsonl").write_text("{no JSON}\n")
    done = ledger(run)
    assert done.exit_code == 2 and "a line is not JSON" in done.output
    (run / "ledger.jsonl").unlink()
    done = ledger(run)
    assert done.exit_code == 2 and "the run has not begun" in done.output
