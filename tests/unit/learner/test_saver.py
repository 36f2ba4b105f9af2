"""Checkpoints behind the training's back, on one rank, with a gate before the writing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from actors.learner import backends, checkpoint
from actors.learner.config import LearnerConfig
from actors.learner.learner import Learner, LearnerSpec
from actors.learner.saver import Saver
from tests.tiny_model import build_model

pytestmark = pytest.mark.usefixtures("single_rank")


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Nothing is written before it opens."""
    opened, real = threading.Event(), checkpoint.write

    def write(*arguments: Any) -> None:
        assert opened.wait(30)
        real(*arguments)

    monkeypatch.setattr(checkpoint, "write", write)
    return opened


@pytest.fixture
def saver(tmp_path: Path) -> Iterator[Saver]:
    made = Saver(str(tmp_path), keep=2, rank=0)
    yield made
    made.close()


@pytest.fixture(scope="module")
def learner() -> Learner:
    return Learner(
        backends.build(build_model(), LearnerConfig(), dtype="float32", device=torch.device("cpu")), LearnerSpec(LearnerConfig(), 1.0, 1)
    )


def test_saving_returns_before_anything_is_written_and_the_commit_comes_last(
    tmp_path: Path, saver: Saver, learner: Learner, gate: threading.Event
) -> None:
    events: list[tuple[int, str]] = []
    saver.save(learner, 1, [], lambda: events.append((checkpoint.newest_ledger(str(tmp_path))[0], "committed")))
    saver.check()
    assert not events and checkpoint.newest(str(tmp_path)) is None
    gate.set()
    saver.wait()
    assert events == [(1, "committed")]


def test_the_next_one_waits_for_the_one_before(tmp_path: Path, saver: Saver, learner: Learner, gate: threading.Event) -> None:
    order: list[int] = []
    saver.save(learner, 1, [], lambda: order.append(1))
    second = threading.Thread(target=saver.save, args=(learner, 2, [], lambda: order.append(2)))
    second.start()
    gate.set()
    second.join(30)
    saver.wait()
    assert order == [1, 2]


def test_what_cannot_be_deleted_does_not_undo_a_commit(
    tmp_path: Path, saver: Saver, learner: Learner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(*_: Any, **__: Any) -> None:
        raise OSError("busy")

    monkeypatch.setattr(checkpoint, "prune", busy)
    told: list[int] = []
    saver.save(learner, 1, [], lambda: told.append(1))
    with pytest.raises(OSError, match="busy"):
        saver.wait()
    assert told == [1]


def test_a_failure_is_raised_by_the_next_look_and_nothing_is_committed(
    tmp_path: Path, saver: Saver, learner: Learner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(checkpoint, "write", full)
    saver.save(learner, 1, [], lambda: pytest.fail("committed"))
    with pytest.raises(OSError, match="no space"):
        saver.wait()
    with pytest.raises(OSError, match="no space"):
        saver.check()
    assert checkpoint.newest(str(tmp_path)) is None
