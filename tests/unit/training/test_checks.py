"""What a run refuses before anything starts."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from actors.errors import ClusterError, ConfigError, DataError, ModelError, UsageError
from services.training.checks import check, check_context, check_device
from tests.unit.recipes import tiny_recipe


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The outside of a model directory: names, and no weights in them."""
    directory = tmp_path / "model"
    directory.mkdir()
    for name in ("model.safetensors", "tokenizer.json"):
        (directory / name).touch()
    (directory / "config.json").write_text(json.dumps({"hidden_size": 128, "num_attention_heads": 4}))
    return directory


def refusal(kind: type[UsageError], *overrides: str) -> str:
    with pytest.raises(kind) as caught:
        check(tiny_recipe("cluster.device=cpu", "cluster.cpus=4", *overrides))
    return str(caught.value)


def test_a_drivers_machine_without_gpus_says_nothing_about_the_cluster_it_joins(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = tiny_recipe("generation.tensor_parallel=2", "policy.heads=8")  # heads of 16 have a kernel on GPUs only
    with pytest.raises(UsageError):
        check(wide)
    monkeypatch.setenv("RAY_ADDRESS", "elsewhere:6379")
    check(wide)
    with pytest.raises(ConfigError, match=r"generation\.tensor_parallel"):
        check_device(wide, gpu=False)  # as it is called once the cluster is known


def test_the_tiny_recipe_and_a_whole_model_pass(model: Path) -> None:
    for policy in ("policy.type=tiny", f"policy={{type: pretrained, path: {model}}}"):
        check(tiny_recipe("cluster.device=cpu", "cluster.cpus=4", policy))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_model_directory_that_lacks_a_part_is_named(model: Path, name: str) -> None:
    (model / name).unlink()
    assert str(model) in refusal(ModelError, f"policy={{type: pretrained, path: {model}}}")


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"hidden_size": 128, "num_attention_heads": 0}', '{"head_dim": "wide"}', "null"])
def test_a_model_whose_config_is_unreadable_is_named(model: Path, content: str) -> None:
    (model / "config.json").write_text(content)
    assert "config.json" in refusal(ModelError, f"policy={{type: pretrained, path: {model}}}")


@pytest.mark.parametrize("policy", ["policy.heads=8", "policy={type: pretrained, path: MODEL}"])
def test_heads_the_engine_has_no_kernel_for_are_refused(model: Path, policy: str) -> None:
    (model / "config.json").write_text(json.dumps({"hidden_size": 4096, "num_attention_heads": 32, "head_dim": 16}))
    assert "heads of size 16" in refusal(ModelError, policy.replace("MODEL", str(model)))


def test_a_hub_id_without_a_pinned_revision_is_refused() -> None:
    assert refusal(ModelError, "policy={type: pretrained, path: some/model}")


def test_a_missing_prompt_file_is_named() -> None:
    assert "/nowhere/rows.jsonl" in refusal(DataError, "prompts.source={type: file, path: /nowhere/rows.jsonl}")


def test_engines_cannot_share_weights_without_gpus() -> None:
    assert "generation.tensor_parallel" in refusal(ConfigError, "generation.tensor_parallel=2")


def test_gpus_that_are_not_there_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ClusterError, match="lacks 4 GPU"):
        check(tiny_recipe("cluster.device=gpu", "cluster.cpus=4"))


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"sliding_window": 16, "layer_types": ["sliding_attention"]}, "sliding window of 16"),
        ({"rope_parameters": {"rope_type": "longrope", "original_max_position_embeddings": 16}}, "longrope"),
    ],
)
def test_contexts_that_cannot_be_packed_are_refused_before_the_start(settings: dict[str, object], named: str) -> None:
    config = SimpleNamespace(max_position_embeddings=64, **settings)
    check_context(config, 16)
    with pytest.raises(ConfigError, match=named):
        check_context(config, 17)
