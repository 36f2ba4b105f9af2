"""What a study remembers of its runs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from actors.errors import ConfigError
from services.study.outcomes import OUTCOMES, Outcome, Outcomes, ended
from services.study.records import read_records
from services.study.run import planned
from tests.unit.study.fabricate import Makeup, write_run, write_study


def test_what_ended_is_known_to_the_next_driver_and_a_line_that_was_cut_is_not(tmp_path: Path) -> None:
    for run in ("a-s0", "b-s0", "c-s0"):
        (tmp_path / "study" / run).mkdir(parents=True)
    outcomes = Outcomes(tmp_path / "study")
    outcomes.add(Outcome("a-s0", "done", "", 3.0))
    outcomes.add(Outcome("b-s0", "diverged", "step 4: two updates", 2.0))
    with pytest.raises(ConfigError, match="in use"):
        Outcomes(tmp_path / "study")
    outcomes.close()
    file = tmp_path / "study" / OUTCOMES
    file.write_text(file.read_text() + '{"run": "c-s0", "outco')
    again = Outcomes(tmp_path / "study")
    assert "a-s0" in again and "b-s0" in again and "c-s0" not in again
    again.add(Outcome("c-s0", "done", "", 1.0))
    again.close()
    last = Outcomes(tmp_path / "study")
    assert "c-s0" in last
    (tmp_path / "study" / "a-s0").rmdir()  # to have it made again
    assert "a-s0" not in last
    last.close()
    assert set(ended(tmp_path / "study")) == {"b-s0", "c-s0"}


def test_a_run_that_ended_in_its_first_step_is_of_its_settings_until_it_is_taken_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GMPO_RUN_ROOT", str(tmp_path / "runs"))
    before = write_study(tmp_path, factors={"objective": {"grpo": ["learner.optimizer.lr=1000.0"]}}, seeds=1)
    write_run(before, before.cells[0], 0, Makeup(outcome="diverged"))
    run = before.run_dir(before.cells[0], 0)
    (run / "metrics.jsonl").write_text("")  # no step was ever told
    after = write_study(tmp_path, factors={"objective": {"grpo": []}}, seeds=1)
    for reading in (planned, read_records):
        with pytest.raises(ConfigError, match=r"learner\.optimizer\.lr"):
            reading(after)
    shutil.rmtree(run)
    assert len(planned(after)) == 1 and not read_records(after).ended
