"""A learner killed at every moment of writing a checkpoint: what it had told of is safe, and what is half written does not count."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from services.training.drive import newest_whole
from tests.integration.conftest import ROOT

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


def test_whenever_a_learner_is_killed_the_last_checkpoint_that_it_told_of_is_whole(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.integration.killed_saver", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    lives = sorted(tmp_path.iterdir(), key=lambda place: int(place.name))
    assert len(lives) > 15
    for life in lives:
        told = int((life / "committed").read_text().split()[-1])
        found, damages = newest_whole(str(life / "checkpoints"))
        assert found is not None and found.step in {told, told + 1}, f"killed at moment {life.name}"
        assert len(damages) <= 1
    assert told == 3 and not damages
