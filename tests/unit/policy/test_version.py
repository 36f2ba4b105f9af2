from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from actors.errors import PolicyVersionError
from actors.weights.manifest import read_manifest, verify_version
from actors.weights.version import committed_steps, prune, version_path, write_version
from tests.tiny_model import build_config, build_model
from tests.unit.policy.conftest import Write


def test_plain_transformers_loads_a_tied_model_with_its_head_in_the_file(
    write: Write, policies: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(4)
    directory = version_path(policies, 4)
    with safe_open(directory / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert torch.equal(file.get_tensor("lm_head.weight"), file.get_tensor("model.embed_tokens.weight"))

    transformers.logging.enable_propagation()
    with caplog.at_level(logging.WARNING):
        model, report = transformers.AutoModelForCausalLM.from_pretrained(directory, output_loading_info=True)
        tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    transformers.logging.disable_propagation()

    assert [record.getMessage() for record in caplog.records] == []
    assert not any(report.values()), report
    assert model.dtype == torch.float32
    assert model.lm_head.weight is model.model.embed_tokens.weight
    for name, weight in build_model().state_dict().items():
        assert torch.equal(model.state_dict()[name], weight), name
    turn = [{"role": "user", "content": "48="}, {"role": "assistant", "content": "84"}]
    assert tokenizer.apply_chat_template(turn, tokenize=False) == "48=84<|end|>"
    assert tokenizer.decode(tokenizer.encode("naïve 数")) == "naïve 数"


def test_the_head_is_added_where_the_learner_sends_only_named_parameters(tmp_path: Path, tokenizer_dir: Path) -> None:
    model = build_model()
    write_version(
        tmp_path / "v",
        state_dict={name: weight.detach().to(torch.bfloat16) for name, weight in model.named_parameters()},
        model_config=build_config(),
        tokenizer_dir=tokenizer_dir,
        step=0,
        parent=None,
        run="r",
    )
    stored = load_file(tmp_path / "v" / "model.safetensors")
    assert stored.keys() == model.state_dict().keys()
    assert torch.equal(stored["lm_head.weight"], stored["model.embed_tokens.weight"])
    config = json.loads((tmp_path / "v" / "config.json").read_text())
    assert (config["architectures"], config["dtype"]) == (["Qwen2ForCausalLM"], "bfloat16")


def test_a_manifest_survives_the_disk_and_names_every_file(write: Write, policies: Path) -> None:
    written = write(7)
    directory = version_path(policies, 7)
    assert read_manifest(directory) == verify_version(directory, finite=True) == written
    assert (written.step, written.parent, written.run) == (7, 6, "a-run")
    assert {*written.files, "manifest.json"} == {path.name for path in directory.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= written.files.keys()


def test_the_weights_digest_is_of_the_weights_alone(write: Write) -> None:
    digests = [write(step, seed).weights_sha256 for step, seed in ((1, 0), (2, 0), (3, 1))]
    assert digests[0] == digests[1] != digests[2]


def truncate(directory: Path) -> None:
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


def flip_a_bit(directory: Path) -> None:
    weights = directory / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)


def remove_the_tokenizer(directory: Path) -> None:
    (directory / "tokenizer.json").unlink()


def add_weights(directory: Path) -> None:
    save_file({"x": torch.zeros(1)}, directory / "model-extra.safetensors")


def edit(**fields: object) -> Callable[[Path], None]:
    def edit_manifest(directory: Path) -> None:
        manifest = json.loads((directory / "manifest.json").read_text())
        (directory / "manifest.json").write_text(json.dumps(manifest | fields))

    return edit_manifest


def cut_the_manifest(directory: Path) -> None:
    manifest = directory / "manifest.json"
    manifest.write_text(manifest.read_text()[:40])


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (truncate, r"model\.safetensors: \d+ bytes, the manifest says \d+"),
        (flip_a_bit, r"model\.safetensors: its sha256 is not"),
        (remove_the_tokenizer, r"tokenizer\.json: missing"),
        (add_weights, r"model-extra\.safetensors: not in the manifest"),
        (edit(weights_sha256="0" * 64), r"manifest\.json: weights_sha256 does not follow"),
        (edit(format=2), r"manifest\.json: format: "),
        (edit(files={"../secret": {"sha256": "", "size_bytes": 0}}), r"'\.\./secret' is not a file name"),
        (cut_the_manifest, r"manifest\.json: file: Invalid JSON"),
        (lambda directory: (directory / "manifest.json").unlink(), r"manifest\.json: missing, so this version was never committed"),
    ],
)
def test_a_damaged_version_is_refused_with_the_file_and_the_fault(
    write: Write, policies: Path, damage: Callable[[Path], None], complaint: str
) -> None:
    write(1)
    damage(version_path(policies, 1))
    with pytest.raises(PolicyVersionError, match=complaint):
        verify_version(version_path(policies, 1))


def test_a_version_of_another_step_is_refused_where_one_is_asked_for(write: Write, policies: Path) -> None:
    written = write(1)
    assert verify_version(version_path(policies, 1), step=1) == written
    with pytest.raises(PolicyVersionError, match="the manifest is of step 1"):
        verify_version(version_path(policies, 1), step=2)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_that_are_not_finite_are_found_when_asked(tmp_path: Path, tokenizer_dir: Path, value: float, dtype: torch.dtype) -> None:
    model = build_model().to(dtype)
    with torch.no_grad():
        model.model.norm.weight[3] = value
    write_version(
        tmp_path / "v", state_dict=model.state_dict(), model_config=model.config, tokenizer_dir=tokenizer_dir, step=0, parent=None, run="r"
    )
    verify_version(tmp_path / "v")
    with pytest.raises(PolicyVersionError, match=r"model\.norm\.weight holds values that are not finite"):
        verify_version(tmp_path / "v", finite=True)


def test_a_name_is_never_given_to_other_weights(write: Write, policies: Path) -> None:
    first = write(2, seed=0)
    assert write(2, seed=0) == first
    with pytest.raises(PolicyVersionError, match="names are not reused"):
        write(2, seed=1)
    assert verify_version(version_path(policies, 2)) == first
    assert [path.name for path in policies.iterdir()] == ["step-2"]


def test_a_write_that_fails_leaves_nothing_and_one_that_died_is_swept(policies: Path, write: Write, tokenizer_dir: Path) -> None:
    (policies / ".step-3.dead.tmp").mkdir(parents=True)
    model = build_model()
    with pytest.raises(KeyError):  # neither the head nor what it is tied to
        write_version(
            version_path(policies, 3),
            state_dict={"model.norm.weight": model.model.norm.weight.detach()},
            model_config=model.config,
            tokenizer_dir=tokenizer_dir,
            step=3,
            parent=None,
            run="r",
        )
    assert list(policies.iterdir()) == []
    write(3)
    assert committed_steps(policies) == [3]


@pytest.mark.parametrize(
    ("rule", "left"),
    [
        ({"keep_last": 2}, [9, 10]),
        ({"keep_last": 1, "protected": {4, 99}}, [4, 10]),
        ({"keep_last": 2, "protected": {0, 10}}, [0, 9, 10]),
        ({"keep_last": 0}, []),
        ({"keep_last": 50}, [0, 4, 5, 9, 10]),
    ],
)
def test_retention(policies: Path, rule: dict[str, object], left: list[int]) -> None:
    for step in (0, 4, 5, 9, 10):
        version_path(policies, step).mkdir(parents=True)
        (version_path(policies, step) / "manifest.json").touch()
    (policies / ".step-5.pruned").mkdir()  # a prune that died
    removed = prune(policies, **rule)  # type: ignore[arg-type]
    assert committed_steps(policies) == left
    assert sorted([*removed, *left]) == [0, 4, 5, 9, 10]
    assert not list(policies.glob(".*"))
