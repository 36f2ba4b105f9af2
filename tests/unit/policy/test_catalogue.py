from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from pyarrow.fs import FileSystem, LocalFileSystem, copy_files
from safetensors.torch import load_file, save_file

from actors.errors import ConfigError, PolicyVersionError
from actors.weights import version
from actors.weights.manifest import Manifest, describe, read_manifest, weights_digest
from actors.weights.shelf import Shelf
from actors.weights.version import prune, version_path
from services.policy import catalogue as module
from services.policy.catalogue import Catalogue
from tests.s3 import object_store
from tests.unit.policy.conftest import Write

Publish = Callable[[], str]


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with object_store() as url:
        yield url


@pytest.fixture(params=["path", "file", "s3"])
def publish(request: pytest.FixtureRequest, policies: Path, tmp_path: Path) -> Publish:
    """publish() puts what was written where a catalogue looks for it, and says where that is."""
    if request.param == "path":
        return lambda: str(policies)
    if request.param == "file":
        return lambda: policies.as_uri()
    url = request.getfixturevalue("bucket").format(f"{tmp_path.name}/policies")

    def upload() -> str:
        filesystem, base = FileSystem.from_uri(url)
        copy_files(str(policies), base, source_filesystem=LocalFileSystem(), destination_filesystem=filesystem)
        return str(url)

    return upload


@pytest.fixture
def remote(bucket: str, tmp_path: Path, policies: Path) -> Publish:
    """As `publish`, on the object store."""

    def upload() -> str:
        url = bucket.format(f"{tmp_path.name}/policies")
        for step in version.committed_steps(policies):
            Shelf(url).upload(policies, step)
        return url

    return upload


def seal(directory: Path) -> None:
    """Make the manifest say what is there now, as whoever can write the folder could."""
    manifest = read_manifest(directory)
    (directory / "manifest.json").unlink()
    files = describe(directory)
    changed = replace(manifest, files=files, weights_sha256=weights_digest(files))
    (directory / "manifest.json").write_bytes(changed.to_json())


def test_versions_are_in_the_order_of_their_steps_and_only_the_committed(write: Write, policies: Path, publish: Publish) -> None:
    manifests = {step: write(step) for step in (2, 10, 9)}
    for directory in ("step-11", "step-012", ".step-12.abc.tmp"):
        (policies / directory).mkdir()
        (policies / directory / "config.json").touch()
    (policies / "step-012" / "manifest.json").touch()
    (policies / "serving.json").touch()
    catalogue = Catalogue(publish())
    assert catalogue.steps() == [2, 9, 10]
    assert catalogue.manifest(9) == manifests[9]


def test_versions_are_found_and_missed_without_a_restart(write: Write, policies: Path, publish: Publish, tmp_path: Path) -> None:
    policies.mkdir(parents=True)
    catalogue = Catalogue(publish(), cache=tmp_path / "cache")
    assert catalogue.steps() == []
    with pytest.raises(PolicyVersionError, match=r"step-1/manifest\.json: missing, so there is no such version"):
        catalogue.fetch(1)
    write(1)
    place = publish()
    assert catalogue.steps() == [1]
    assert catalogue.manifest(1).step == 1
    Shelf(place).discard(1)
    assert catalogue.steps() == []
    with pytest.raises(PolicyVersionError, match="no such version"):
        catalogue.manifest(1)


def test_a_fetched_version_is_whole_and_on_this_machine(write: Write, policies: Path, publish: Publish, tmp_path: Path) -> None:
    write(3, seed=1)
    path = Catalogue(publish(), cache=tmp_path / "cache").fetch(3)
    weights, written = load_file(path / "model.safetensors"), load_file(policies / "step-3" / "model.safetensors")
    assert weights.keys() == written.keys() and all(torch.equal(weights[name], written[name]) for name in weights)
    assert {file.name for file in path.iterdir()} == {file.name for file in (policies / "step-3").iterdir()}


def change_weights(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    def damage(directory: Path) -> None:
        weights = load_file(directory / "model.safetensors")
        change(weights)
        save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
        seal(directory)

    return damage


def change_bytes(name: str, change: Callable[[bytearray], Any], *, sealed: bool = False) -> Callable[[Path], None]:
    def damage(directory: Path) -> None:
        content = bytearray((directory / name).read_bytes())
        change(content)
        (directory / name).write_bytes(content)
        if sealed:
            seal(directory)

    return damage


def change_config(**fields: object) -> Callable[[Path], None]:
    def damage(directory: Path) -> None:
        config = json.loads((directory / "config.json").read_text())
        (directory / "config.json").write_text(json.dumps(config | fields))
        seal(directory)

    return damage


def flip(position: int) -> Callable[[bytearray], None]:
    def flip_a_bit(content: bytearray) -> None:
        content[position] ^= 1

    return flip_a_bit


def without(name: str) -> Callable[[Path], None]:
    def remove(directory: Path) -> None:
        (directory / name).unlink()
        seal(directory)

    return remove


WEIGHTS, NORM = "model.safetensors", "model.norm.weight"


@pytest.mark.parametrize("where", ["path", "s3"])
@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (
            change_bytes(WEIGHTS, lambda content: content.__delitem__(slice(-1000, None))),
            r"model\.safetensors: \d+ bytes, the manifest says",
        ),
        (change_bytes(WEIGHTS, flip(-1)), r"model\.safetensors: its sha256 is not"),
        (change_bytes(WEIGHTS, flip(3)), r"model\.safetensors: its sha256 is not"),  # the header is not read before the digest is right
        (change_bytes(WEIGHTS, flip(3), sealed=True), r"model\.safetensors: .*header"),
        (lambda directory: (directory / "tokenizer.json").unlink(), r"tokenizer\.json: missing"),
        (lambda directory: (directory / "modeling.py").touch(), r"modeling\.py: not in the manifest"),
        (lambda directory: save_file({"x": torch.zeros(1)}, directory / "more.safetensors"), r"more\.safetensors: not in the manifest"),
        (change_weights(lambda weights: weights[NORM][3].fill_(float("nan"))), rf"{NORM} holds values that are not finite"),
        (change_weights(lambda weights: weights[NORM][0].fill_(float("-inf"))), rf"{NORM} holds values that are not finite"),
        (
            change_weights(lambda weights: weights.update({NORM: torch.ones(7)})),
            rf"{NORM} is F32 \[7\], the engine holds step-1\S* with F32 \[\d+\]",
        ),
        (change_weights(lambda weights: weights.update({NORM: weights[NORM].to(torch.bfloat16)})), rf"{NORM} is BF16 .* with F32"),
        (change_weights(lambda weights: weights.pop(NORM)), rf"{NORM} is missing, the engine holds"),
        (change_weights(lambda weights: weights.update(x=torch.zeros(2))), r"x is F32 \[2\], .* with missing"),
        (change_bytes("tokenizer.json", bytearray.reverse, sealed=True), r"tokenizer\.json: not as in step-1.*: its content differs"),
        (without("chat_template.jinja"), r"chat_template\.jinja: not as in step-1.*: it is missing"),
        (change_config(hidden_act="relu"), r"config\.json: hidden_act is 'relu', the engine holds step-1\S* with 'silu'"),
        (change_bytes("config.json", bytearray.reverse, sealed=True), r"config\.json: "),
        (lambda directory: (directory / "manifest.json").write_bytes(b"{"), r"manifest\.json: file: Invalid JSON"),
    ],
)
def test_a_bad_version_is_refused_with_the_file_and_the_fault(
    write: Write,
    policies: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    where: str,
    damage: Callable[[Path], None],
    complaint: str,
) -> None:
    for step in (1, 2, 3):
        write(step, seed=step)
    damage(version_path(policies, 2))
    place = str(policies)
    if where == "s3":
        place = request.getfixturevalue("bucket").format(f"{tmp_path.name}/policies")
        filesystem, base = FileSystem.from_uri(place)
        copy_files(str(policies), base, source_filesystem=LocalFileSystem(), destination_filesystem=filesystem)
    catalogue = Catalogue(place, cache=tmp_path / "cache")
    held = catalogue.fetch(1)
    for _ in range(2):
        with pytest.raises(PolicyVersionError, match=complaint) as refusal:
            catalogue.fetch(2, like=held)
        assert "step-2" in str(refusal.value) and ".tmp" not in str(refusal.value)
    assert load_file(catalogue.fetch(3, like=held) / WEIGHTS).keys() == load_file(held / WEIGHTS).keys()


def test_a_version_in_shards_needs_them_all(write: Write, policies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(version, "SHARD_LIMIT", "1MB")
    for step in (1, 2, 3):
        write(step, seed=step)
    shards = sorted(version_path(policies, 1).glob("*.safetensors"))
    assert len(shards) > 1
    catalogue = Catalogue(policies)
    held = catalogue.fetch(1)
    (version_path(policies, 2) / shards[-1].name).unlink()
    with pytest.raises(PolicyVersionError, match=rf"{shards[-1].name}: missing"):
        catalogue.fetch(2, like=held)
    (version_path(policies, 3) / shards[-1].name).unlink()
    seal(version_path(policies, 3))
    with pytest.raises(PolicyVersionError, match=r"is missing, the engine holds step-1"):
        catalogue.fetch(3, like=held)


def test_a_version_under_another_steps_name_is_refused(write: Write, policies: Path, publish: Publish) -> None:
    write(1)
    version_path(policies, 1).rename(version_path(policies, 8))
    catalogue = Catalogue(publish())
    assert catalogue.steps() == [8]
    for ask in (catalogue.manifest, catalogue.fetch):
        with pytest.raises(PolicyVersionError, match=r"step-8: the manifest is of step 1"):
            ask(8)


def test_where_a_model_came_from_may_differ(write: Write, policies: Path) -> None:
    write(1)
    write(2)
    change_config(_name_or_path="elsewhere", transformers_version="5.0.0")(version_path(policies, 2))
    catalogue = Catalogue(policies)
    assert catalogue.fetch(2, like=catalogue.fetch(1)) == version_path(policies, 2)


def test_what_was_verified_is_read_again_only_once_it_has_changed(write: Write, policies: Path) -> None:
    write(1)
    catalogue = Catalogue(policies)
    weights = catalogue.fetch(1) / WEIGHTS
    stamp = weights.stat().st_mtime_ns
    change_bytes(WEIGHTS, flip(-1))(weights.parent)
    os.utime(weights, ns=(stamp, stamp))
    catalogue.fetch(1)  # no file was read, or the bit would have been found
    os.utime(weights, ns=(stamp, stamp + 1))
    with pytest.raises(PolicyVersionError, match="sha256"):
        catalogue.fetch(1)


@pytest.mark.parametrize("point", ["read_layout", "check_finite", "verify_version"])
def test_a_version_deleted_while_it_is_fetched_is_refused_as_that(
    write: Write, policies: Path, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(1)
    real: Callable[..., Any] = getattr(module, point)

    def late(*arguments: Any, **options: Any) -> Any:
        prune(policies, keep_last=0)
        return real(*arguments, **options)

    monkeypatch.setattr(module, point, late)
    with pytest.raises(PolicyVersionError, match=r"step-1.*(deleted while it was fetched|never committed)"):
        Catalogue(policies).fetch(1)


def test_a_version_deleted_between_two_files_is_refused_as_that(write: Write, policies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(1)
    real = Path.open

    def late(path: Path, *arguments: Any, **options: Any) -> Any:
        if path.name == WEIGHTS:
            prune(policies, keep_last=0)
        return real(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", late)
    with pytest.raises(PolicyVersionError, match="step-1: deleted while it was fetched"):
        Catalogue(policies).fetch(1)


def test_a_version_deleted_while_it_is_copied_is_refused_as_that(
    write: Write, remote: Publish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(1)
    catalogue = Catalogue(remote(), cache=tmp_path / "cache")
    real = Shelf.sizes

    def sizes(shelf: Shelf, step: int) -> dict[str, int]:
        found = real(shelf, step)
        shelf.discard(step)
        return found

    monkeypatch.setattr(Shelf, "sizes", sizes)
    with pytest.raises(PolicyVersionError, match="step-1: deleted while it was fetched"):
        catalogue.fetch(1)
    assert not list((tmp_path / "cache").glob("*step-1*"))


def test_a_storage_that_fails_says_nothing_against_the_version(
    write: Write, remote: Publish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(1)
    catalogue = Catalogue(remote(), cache=tmp_path / "cache")

    def download(*_: Any) -> None:
        raise OSError("the network is down")

    with monkeypatch.context() as broken:
        broken.setattr(Shelf, "download", download)
        with pytest.raises(OSError, match="the network is down"):
            catalogue.fetch(1)
    assert (catalogue.fetch(1) / WEIGHTS).exists()


def test_an_engines_version_may_be_gone_when_the_next_is_held_against_it(write: Write, policies: Path) -> None:
    for step in (1, 2, 3):
        write(step)
    change_weights(lambda weights: weights.update({NORM: torch.ones(7)}))(version_path(policies, 3))
    catalogue = Catalogue(policies)
    held = catalogue.fetch(1)
    prune(policies, keep_last=2)
    assert catalogue.fetch(2, like=held) == version_path(policies, 2)
    with pytest.raises(PolicyVersionError, match=f"{NORM} is F32"):
        catalogue.fetch(3, like=held)


def test_copies_are_found_again_by_other_processes_and_few_stay(
    write: Write, remote: Publish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (1, 2, 3, 4):
        write(step)
    place, cache = remote(), tmp_path / "cache"
    cache.mkdir()
    (cache / ".step-9.dead.tmp").mkdir()
    first, second = Catalogue(place, cache=cache, keep=2), Catalogue(place, cache=cache, keep=2)
    held = first.fetch(1)
    first.fetch(2)
    first.fetch(3, like=held)
    assert copies(cache) == [1, 2, 3]  # one more than may stay: an engine holds it
    first.fetch(2)
    first.fetch(4)
    assert copies(cache) == [2, 4]
    with monkeypatch.context() as offline:
        offline.setattr(Shelf, "download", lambda *_: pytest.fail("it is here already"))
        assert second.fetch(4) == first.fetch(4)
    assert not list(cache.glob(".*.tmp"))


def copies(cache: Path) -> list[int]:
    return sorted(int(copy.name.split("-")[1]) for copy in cache.glob("step-*"))


def test_a_copy_that_rots_is_made_anew(write: Write, remote: Publish, tmp_path: Path) -> None:
    write(1)
    place, cache = remote(), tmp_path / "cache"
    copy = Catalogue(place, cache=cache).fetch(1)
    change_bytes(WEIGHTS, flip(-1))(copy)
    assert Catalogue(place, cache=cache).fetch(1) == copy
    shutil.rmtree(cache)
    assert Catalogue(place, cache=cache).fetch(1) == copy


def test_a_url_of_no_kind_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"nowhere://x/policies: "):
        Catalogue("nowhere://x/policies")


def test_a_manifest_is_read_once(write: Write, policies: Path) -> None:
    written = write(1)
    catalogue = Catalogue(policies)
    assert catalogue.manifest(1) == written
    (version_path(policies, 1) / "manifest.json").write_bytes(Manifest(1, 2, None, datetime.now(UTC), "x", "", {}).to_json())
    assert catalogue.manifest(1) == written
