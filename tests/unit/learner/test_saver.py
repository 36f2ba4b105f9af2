"""Checkpoints behind the training's back, on one rank, with a gate before the writing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from traceback import StackSummary
from typing import Any

import pytest
import torch
from torch.distributed import distributed_c10d
from torch.distributed.checkpoint import CheckpointException

from actors.errors import CheckpointError
from actors.learner import backends, checkpoint, checkpoint_store
from actors.learner.checkpoint import Waiting
from actors.learner.config import LearnerConfig
from actors.learner.learner import Learner, LearnerSpec
from actors.learner.saver import Saver
from tests.tiny_model import build_model

pytestmark = pytest.mark.usefixtures("single_rank")


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Nothing is written before it opens."""
    opened, real = threading.Event(), checkpoint.write

    def write(*arguments: Any) -> checkpoint_store.Digests:
        assert opened.wait(30)
        return real(*arguments)

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
    saver.save(learner, 1, Waiting(), lambda: events.append((checkpoint_store.stored(str(tmp_path))[0].step, "committed")))
    saver.check()
    assert not events and not checkpoint_store.stored(str(tmp_path))
    gate.set()
    saver.wait()
    assert events == [(1, "committed")]


def test_the_next_one_waits_for_the_one_before(tmp_path: Path, saver: Saver, learner: Learner, gate: threading.Event) -> None:
    order: list[int] = []
    saver.save(learner, 1, Waiting(), lambda: order.append(1))
    second = threading.Thread(target=saver.save, args=(learner, 2, Waiting(), lambda: order.append(2)))
    second.start()
    gate.set()
    second.join(30)
    saver.wait()
    assert order == [1, 2]


def test_no_group_is_left_by_a_run_after_it(tmp_path: Path) -> None:
    before = set(distributed_c10d._world.pg_map)
    for _ in range(2):
        Saver(str(tmp_path), keep=2, rank=0).close()
    assert set(distributed_c10d._world.pg_map) == before


def test_what_cannot_be_deleted_does_not_undo_a_commit(
    tmp_path: Path, saver: Saver, learner: Learner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(*_: Any, **__: Any) -> None:
        raise OSError("busy")

    monkeypatch.setattr(checkpoint_store, "prune", busy)
    told: list[int] = []
    saver.save(learner, 1, Waiting(), lambda: told.append(1))
    with pytest.raises(OSError, match="busy"):
        saver.wait()
    assert told == [1]


def test_a_full_disk_is_told_and_passed_over_and_the_third_time_ends_the_run(
    tmp_path: Path, learner: Learner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(root: str, snapshot: checkpoint.Snapshot, group: Any) -> None:
        (Path(root) / f"step-{snapshot.step}").mkdir()
        raise OSError("no space left on device")

    told: list[str] = []
    saver = Saver(str(tmp_path), keep=2, rank=0, failed=told.append)
    with monkeypatch.context() as broken:
        broken.setattr(checkpoint, "write", full)
        for step in (1, 2):
            saver.save(learner, step, Waiting(), lambda: pytest.fail("committed"))
            saver.wait()
    assert saver.failures == 2 and all(f"step {step}" in told[step - 1] for step in (1, 2))
    assert list(tmp_path.iterdir()) == []  # what was written of it is gone
    saver.save(learner, 3, Waiting(), lambda: None)
    saver.wait()
    assert saver.failures == 0 and [found.step for found in checkpoint_store.stored(str(tmp_path))] == [3]
    monkeypatch.setattr(checkpoint, "write", full)
    for step in (4, 5, 6):
        saver.save(learner, step, Waiting(), lambda: pytest.fail("committed"))
    with pytest.raises(CheckpointError, match=r"no space left on device \(3 in a row\)"):
        saver.wait()
    saver.close()


def test_a_failure_that_torch_has_gathered_is_told_without_its_stacks(
    tmp_path: Path, learner: Learner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its CheckpointException is no Exception, and a real full disk comes as one."""

    def full(*_: Any) -> None:
        failure = RuntimeError("unexpected pos 704 vs 598")
        raise CheckpointException("write", {0: (failure, StackSummary()), 1: (failure, StackSummary())})

    told: list[str] = []
    saver = Saver(str(tmp_path), keep=2, rank=0, failed=told.append)
    monkeypatch.setattr(checkpoint, "write", full)
    saver.save(learner, 1, Waiting(), lambda: pytest.fail("committed"))
    saver.wait()
    saver.close()
    assert told == ["the checkpoint of step 1 could not be written: rank 0: RuntimeError: unexpected pos 704 vs 598"]
