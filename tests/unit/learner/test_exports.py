from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from actors.errors import PolicyVersionError
from actors.learner.exports import Exporter
from actors.storage import open_root
from actors.weights import shelf as module
from actors.weights.manifest import MANIFEST, verify_version
from actors.weights.shelf import Shelf
from actors.weights.version import committed_steps, version_path
from tests.s3 import object_store
from tests.tiny_model import build_model, save_tokenizer

Write = Callable[..., None]


@pytest.fixture(scope="module")
def tokenizer_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def told() -> list[tuple[str, str]]:
    return []


@pytest.fixture
def exporter(tmp_path: Path, told: list[tuple[str, str]]) -> Iterator[Callable[..., Exporter]]:
    """exporter(mirror, protected=..., keep=...) of the versions in `policies`."""
    made: list[Exporter] = []

    def exporter(mirror: str | None, protected: Callable[[], Collection[int]] = set, keep: int = 2) -> Exporter:
        made.append(Exporter(tmp_path / "policies", mirror, keep=keep, protected=protected, tell=lambda *event: told.append(event)))
        return made[-1]

    yield exporter
    for one in made:
        one.close()


@pytest.fixture
def write(tokenizer_dir: Path) -> Write:
    """write(exporter, step, ...) with weights that are the step's own."""
    model = build_model()

    def write(exporter: Exporter, *steps: int) -> None:
        for step in steps:
            weights = model.state_dict() | {"model.norm.weight": torch.full_like(model.model.norm.weight, step)}
            exporter.write(step, weights, model_config=model.config, tokenizer_dir=tokenizer_dir, run="r")

    return write


def test_the_newest_the_first_and_the_protected_stay(tmp_path: Path, exporter: Callable[..., Exporter], write: Write) -> None:
    write(exporter(None, lambda: {4}), 0, 2, 4, 6, 8, 10)
    assert committed_steps(tmp_path / "policies") == [0, 4, 8, 10]
    manifest = verify_version(version_path(tmp_path / "policies", 8))
    assert (manifest.step, manifest.parent) == (8, 6)


def test_nothing_is_deleted_while_it_cannot_be_known_what_is_protected(
    tmp_path: Path, exporter: Callable[..., Exporter], write: Write, told: list[tuple[str, str]]
) -> None:
    def protected() -> set[int]:
        raise PolicyVersionError("serving.json: no JSON")

    mirror = (tmp_path / "mirror").as_uri()
    running = exporter(mirror, protected, keep=1)
    write(running, 0, 2, 4)
    running.finish()
    assert committed_steps(tmp_path / "policies") == Shelf(mirror).steps() == [0, 2, 4]
    assert set(told) == {("retention_failed", "no version is deleted: serving.json: no JSON")}


def test_versions_are_found_whole_on_an_object_store_and_deleted_there_alike(
    tmp_path: Path, exporter: Callable[..., Exporter], write: Write, told: list[tuple[str, str]]
) -> None:
    with object_store() as url:
        mirror = url.format("run/policies")
        shelf, running = Shelf(mirror), exporter(mirror, lambda: {2})
        filesystem, _ = open_root(mirror)
        filesystem.create_dir(shelf.place(1))  # of an upload that was cut off, of a version that is not kept any more
        for step in (0, 2, 4, 6, 8):
            write(running, step)
            running.finish()
            assert step in shelf.steps()
        assert shelf.steps() == committed_steps(tmp_path / "policies") == [0, 2, 6, 8]
        assert not shelf.unfinished() and not told
        (tmp_path / "copy").mkdir()
        shelf.download(6, tmp_path / "copy")
        assert verify_version(tmp_path / "copy", step=6, finite=True) == verify_version(version_path(tmp_path / "policies", 6))


def test_a_failed_upload_is_told_and_made_up_for_with_the_next_version(
    tmp_path: Path, exporter: Callable[..., Exporter], write: Write, told: list[tuple[str, str]]
) -> None:
    mirror = tmp_path / "mirror"
    mirror.touch()  # a file is in the way
    running = exporter(mirror.as_uri())
    write(running, 0)
    running.finish()
    assert [event for event, _ in told] == ["upload_failed", "upload_failed"]  # the end of a run is one more try
    assert "step-0" in told[0][1]
    mirror.unlink()
    write(running, 2)
    running.finish()
    assert committed_steps(mirror) == [0, 2]
    assert len(told) == 2


def test_an_upload_that_was_cut_off_does_not_count_and_is_done_again_by_the_next_run(
    tmp_path: Path, exporter: Callable[..., Exporter], write: Write, told: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = (tmp_path / "mirror").as_uri()
    real = module.copy_files

    def copy(source: str, *arguments: Any, **options: Any) -> None:
        if source.endswith("model.safetensors"):
            raise OSError("the network is down")
        real(source, *arguments, **options)

    with monkeypatch.context() as broken:
        broken.setattr(module, "copy_files", copy)
        first = exporter(mirror)
        write(first, 0)
        first.finish()
    assert (Shelf(mirror).steps(), Shelf(mirror).unfinished()) == ([], {0})
    exporter(mirror).finish()
    assert verify_version(version_path(tmp_path / "mirror", 0), step=0)
    assert {event for event, _ in told} == {"upload_failed"}


def test_the_manifest_is_put_last(tmp_path: Path, exporter: Callable[..., Exporter], write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    put: list[str] = []
    real = module.copy_files

    def copy(source: str, *arguments: Any, **options: Any) -> None:
        put.append(Path(source).name)
        real(source, *arguments, **options)

    monkeypatch.setattr(module, "copy_files", copy)
    running = exporter((tmp_path / "mirror").as_uri())
    write(running, 0)
    running.finish()
    assert put[-1] == MANIFEST and put.count(MANIFEST) == 1 and "model.safetensors" in put


def test_one_version_that_cannot_be_uploaded_holds_no_other_up(
    tmp_path: Path, exporter: Callable[..., Exporter], write: Write, told: list[tuple[str, str]]
) -> None:
    (tmp_path / "mirror" / "step-0").mkdir(parents=True)
    manifest = version_path(tmp_path / "mirror", 0) / MANIFEST
    running = exporter((tmp_path / "mirror").as_uri())
    write(running, 0)
    running.finish()
    manifest.write_text(manifest.read_text().replace(verify_version(manifest.parent).weights_sha256, "0" * 64))
    write(running, 2)
    running.finish()
    assert committed_steps(tmp_path / "mirror") == [0, 2]
    assert all(event == "upload_failed" and "step-0: holds other weights already" in why for event, why in told) and told


def test_a_version_deleted_here_before_it_was_uploaded_is_not_missed_there(
    tmp_path: Path, exporter: Callable[..., Exporter], write: Write, told: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    running = exporter((tmp_path / "mirror").as_uri(), keep=1)
    real = Shelf.upload

    def late(shelf: Shelf, policies: Path, step: int) -> None:
        if step == 2:
            version_path(policies, 2).rename(tmp_path / "deleted")
        real(shelf, policies, step)

    monkeypatch.setattr(Shelf, "upload", late)
    write(running, 0, 2)
    running.finish()
    assert committed_steps(tmp_path / "mirror") == [0] and not told
