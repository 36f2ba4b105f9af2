from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from actors.learner import backends, checkpoint
from actors.learner import checkpoint_store as store
from actors.learner.checkpoint import LEDGER, Waiting
from actors.learner.config import LearnerConfig
from actors.learner.learner import Learner, LearnerSpec
from tests.tiny_model import build_model

pytestmark = pytest.mark.usefixtures("single_rank")

LIVES: list[list[object]] = [[0, "trained", 1, None], [1, "ready", None, None]]


def learner(seed: int) -> Learner:
    backend = backends.build(build_model(seed), LearnerConfig(), dtype="float32", device=torch.device("cpu"))
    return Learner(backend, LearnerSpec(LearnerConfig(), 1.0, 10))


def write(root: Path | str, of: Learner, step: int, ledger: list[list[object]] = LIVES) -> store.Digests:
    group = dist.group.WORLD
    assert group is not None
    return checkpoint.write(str(root), checkpoint.take(of, step=step, rank=0, waiting=Waiting(ledger)), group)


def weights(of: Learner) -> dict[str, torch.Tensor]:
    return {spec.name: tensor.clone() for spec, tensor in zip(of.backend.specs(), of.backend.tensors(), strict=True)}


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_a_learner_goes_on_exactly_where_it_was_saved(tmp_path: Path) -> None:
    before = learner(seed=0)
    before.progress.updates_done, before.progress.skipped = 7, 2
    write(tmp_path, before, step=3)
    drawn, held = draw(), weights(before)
    after = learner(seed=1)
    checkpoint.read(str(tmp_path), 3, after, rank=0)
    assert after.progress == before.progress
    assert draw() == drawn
    for name, tensor in weights(after).items():
        torch.testing.assert_close(tensor, held[name], rtol=0, atol=0)


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_the_newest_committed_checkpoint_counts_and_its_ledger_needs_no_learner(tmp_path: Path, scheme: str) -> None:
    root = f"{scheme}{tmp_path}"
    files = {step: write(root, learner(seed=0), step=step, ledger=[[0, "trained", step, None]]) for step in (9, 10, 11)}
    assert store.stored(root) == []
    for step in (9, 10):  # 11 was interrupted
        store.commit(root, step, files[step])
    newest, older = store.stored(root)
    assert (newest.step, older.step) == (10, 9)
    assert newest.read_json(LEDGER) == [[0, "trained", 10, None]]
    assert newest.damage() is None


def test_training_on_does_not_reach_into_a_snapshot_that_is_yet_to_be_written(tmp_path: Path) -> None:
    before, after = learner(seed=0), learner(seed=1)
    held = weights(before)
    snapshot = checkpoint.take(before, step=1, rank=0, waiting=Waiting())
    with torch.no_grad():
        for parameter in before.backend._scorer.parameters():  # type: ignore[attr-defined]
            parameter.add_(1.0)
    assert dist.group.WORLD is not None
    checkpoint.write(str(tmp_path), snapshot, dist.group.WORLD)
    checkpoint.read(str(tmp_path), 1, after, rank=0)
    assert all(torch.equal(tensor, held[name]) for name, tensor in weights(after).items())


def test_where_nothing_was_saved_there_is_nothing(tmp_path: Path) -> None:
    assert store.stored(str(tmp_path / "nowhere")) == []


def test_a_rank_that_did_not_exist_can_read_it(tmp_path: Path) -> None:
    before, after = learner(seed=0), learner(seed=1)
    write(tmp_path, before, step=3)
    checkpoint.read(str(tmp_path), 3, after, rank=1)
    held = weights(before)
    assert all(torch.equal(tensor, held[name]) for name, tensor in weights(after).items())


def test_pruning_keeps_the_newest_committed_and_whatever_may_still_be_written(tmp_path: Path) -> None:
    for step in (2, 4, 5, 6, 8, 9):
        (tmp_path / f"step-{step}").mkdir()
    for step in (2, 4, 6, 8):
        store.commit(str(tmp_path), step, {})
    store.prune(str(tmp_path), keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-6", "step-8", "step-9"]


def test_a_step_that_is_written_over_does_not_count_until_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken_off(*_: object, **__: object) -> None:
        raise OSError("killed")

    for step in (4, 5):
        store.commit(str(tmp_path), step, write(tmp_path, learner(seed=0), step=step))
    monkeypatch.setattr(checkpoint, "dcp_save", broken_off)
    with pytest.raises(OSError, match="killed"):
        write(tmp_path, learner(seed=1), step=5)
    assert [found.step for found in store.stored(str(tmp_path))] == [4]


@pytest.mark.parametrize("harm", ["flip", "cut", "remove", "unreadable commit"])
def test_a_damaged_checkpoint_says_what_is_wrong(tmp_path: Path, harm: str) -> None:
    store.commit(str(tmp_path), 1, write(tmp_path, learner(seed=0), step=1))
    directory = tmp_path / "step-1"
    shard = next(directory.glob("*.distcp"))
    content = shard.read_bytes()
    match harm:
        case "flip":
            shard.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        case "cut":
            shard.write_bytes(content[:-1])
        case "remove":
            shard.unlink()
        case _:
            (directory / store.COMMIT).write_text("{")
    damage = store.stored_at(str(tmp_path), 1).damage()
    assert damage is not None and (shard.name in damage or store.COMMIT in damage)
