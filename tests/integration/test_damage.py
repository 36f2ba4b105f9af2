"""What is half written, and what kills whoever touches it: neither is ever trained on, and neither ends the run."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from actors.errors import PoisonedPrompt
from actors.types import Prompt
from services.training.pool import Member, Pool
from services.training.stages import Stages
from services.training.train import newest_whole
from tests.integration.conftest import ROOT

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


# --- a kill at every moment of a checkpoint --------------------------------------------------------------------------------------


def test_whenever_a_learner_is_killed_the_last_checkpoint_that_it_told_of_is_whole(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.integration.killed_saver", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    lives = sorted(tmp_path.iterdir(), key=lambda place: int(place.name))
    assert len(lives) > 50  # moments at which a child was killed
    for life in lives:
        told = [int(line) for line in (life / "committed").read_text().split()] if (life / "committed").exists() else []
        found, damages = newest_whole(str(life / "checkpoints"))
        newest = found.step if found else 0
        assert newest in {max(told, default=0), max(told, default=0) + 1}, f"killed at moment {life.name}"
        assert len(damages) <= 1
    assert told == [1, 2, 3] and not damages
