from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants
from typer.testing import CliRunner, Result

from actors.errors import UsageError
from services.cli import app
from services.export.hub import push
from tests.unit.export.hub import TOKEN, Hub, Repository, small_hub

# The client library's own upload of weights, by the client that it speaks HTTP with.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with small_hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # a protocol of its own, which this hub does not speak
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "figures").mkdir(parents=True)
    (folder / "README.md").write_text("---\ntags: [gmpo]\n---\n# A model\n")
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "figures" / "reward.png").write_bytes(b"curve")
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def gmpo(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_an_export_is_pushed_whole_and_private(hub: Hub, terse: Path, tmp_path: Path) -> None:
    done = gmpo("export", f"{terse}@2", "--to", tmp_path / "model", "--push", "me/mine")
    assert done.exit_code == 0 and f"{hub.url}/me/mine/commit/" in done.output, done.output
    held = hub.repositories["me/mine"]
    assert held.private and held.commits == ["a-run, step 2"]
    assert held.files == files(tmp_path / "model") | {".gitattributes": b""}
    assert b'place = "me/mine"' in held.files["README.md"]


def test_a_push_takes_the_place_of_what_was_there_in_one_commit(hub: Hub, folder: Path) -> None:
    old = {"model-00001-of-00002.safetensors": b"shard", "README.md": b"old", ".gitattributes": b"lfs"}
    hub.repositories["me/mine"] = Repository(private=True, files=old)
    push(folder, "me/mine", public=False, message="step 4")
    assert hub.repositories["me/mine"].files == files(folder) | {".gitattributes": b"lfs"}
    assert hub.repositories["me/mine"].commits == ["step 4"]


def test_only_who_asks_for_it_writes_where_others_can_read(hub: Hub, folder: Path) -> None:
    hub.repositories["me/open"] = Repository(private=False)
    with pytest.raises(UsageError, match="there already and public; say --public"):
        push(folder, "me/open", public=False, message="step 4")
    assert not hub.repositories["me/open"].commits
    push(folder, "me/open", public=True, message="step 4")
    push(folder, "me/new", public=True, message="step 4")
    assert hub.repositories["me/open"].commits and not hub.repositories["me/new"].private


def test_what_the_hub_refuses_is_told_with_the_way_on(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_of-someone-else")
    with pytest.raises(UsageError, match=r"the hub refused: Invalid username or password\.; .* hf upload me/mine .* --private"):
        push(folder, "me/mine", public=False, message="step 4")


def test_a_hub_that_does_not_answer_is_told(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UsageError, match=r"--push me/mine: .*refused"):
        push(folder, "me/mine", public=False, message="step 4")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--push", "me/mine"), "set HF_TOKEN"),
        (("--push", "me//mine"), "--push me//mine: "),
        (("--public",), "it goes with --push"),
    ],
)
def test_what_can_be_known_before_is_told_before(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], complaint: str
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    done = gmpo("export", f"{finished}@2", "--to", tmp_path / "model", *arguments)
    assert done.exit_code == 2 and complaint in done.output.replace("\n", " ")
    assert not (tmp_path / "model").exists()
