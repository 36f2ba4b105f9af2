"""What a study remembers of its runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.errors import ConfigError
from services.study.outcomes import OUTCOMES, Outcome, Outcomes


def test_what_ended_is_known_to_the_next_driver_and_a_line_that_was_cut_is_not(tmp_path: Path) -> None:
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
    last.close()
