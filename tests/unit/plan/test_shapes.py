from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM

from actors.errors import ModelError
from actors.learner.config import LoraConfig
from actors.learner.lora import attach
from actors.modeling.config import TinyPolicy
from actors.modeling.tiny import make_model, make_tokenizer
from services.plan import shapes
from services.plan.shapes import PUBLISHED, TINY_VOCABULARY, from_config

COUNTED = {
    "Qwen/Qwen2.5-Math-1.5B": 1_543_714_304,
    "Qwen/Qwen2.5-Math-7B": 7_615_616_512,
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": 1_777_088_000,
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B": 7_615_616_512,
    "Qwen/Qwen2.5-0.5B": 494_032_768,
    "Qwen/Qwen3-0.6B": 596_049_920,
    "Qwen/Qwen3-1.7B": 1_720_574_976,
    "Qwen/Qwen3-4B": 4_022_468_096,
    "Qwen/Qwen3-8B": 8_190_735_360,
}
"""Parameters in the files that their makers published."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_model_has_as_many_parameters_as_its_files(name: str) -> None:
    assert PUBLISHED[name].parameters == COUNTED[name]


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_documents_list_the_published_models(name: str) -> None:
    assert f"`{name}`" in (Path(__file__).parents[3] / "docs" / "sizing.md").read_text()


def test_a_token_of_qwen_math_7b_takes_57344_bytes_of_keys_and_values() -> None:
    shape = PUBLISHED["Qwen/Qwen2.5-Math-7B"]
    assert shape.kv_bytes(2) == 2 * 28 * 4 * 128 * 2 == 57_344
    assert shape.kv_bytes(2, tensor_parallel=4) == 57_344 // 4
    assert shape.kv_bytes(2, tensor_parallel=8) == 57_344 // 4, "a key-value head is held twice rather than cut"


@pytest.mark.parametrize("tied", [True, False])
def test_the_tiny_policy_is_counted_as_it_is_built(tied: bool) -> None:
    policy = TinyPolicy(tied=tied)
    assert shapes.of_tiny(policy).parameters == sum(parameter.numel() for parameter in make_model(policy).parameters())
    assert len(make_tokenizer()) == TINY_VOCABULARY


def decoders() -> st.SearchStrategy[dict[str, Any]]:
    """Small configurations of each family."""
    return st.fixed_dictionaries(
        {
            "model_type": st.sampled_from(shapes.FAMILIES),
            "hidden_size": st.sampled_from([32, 64]),
            "num_hidden_layers": st.integers(1, 3),
            "num_attention_heads": st.sampled_from([2, 4]),
            "num_key_value_heads": st.sampled_from([1, 2]),
            "head_dim": st.sampled_from([16, 32]),
            "intermediate_size": st.integers(8, 96),
            "vocab_size": st.integers(50, 300),
            "tie_word_embeddings": st.booleans(),
            "attention_bias": st.booleans(),
        }
    )


@settings(max_examples=25)
@given(decoders())
def test_any_decoder_of_a_known_family_is_counted_as_transformers_builds_it(config: dict[str, Any]) -> None:
    if config["model_type"] == "qwen2":  # its head size is what the others leave
        config["head_dim"] = config["hidden_size"] // config["num_attention_heads"]
    kind = config.pop("model_type")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **config))
    shape = from_config(model.config.to_dict() | {"model_type": kind}, "test")
    assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())


def test_adapters_are_counted_as_peft_makes_them() -> None:
    policy, config = TinyPolicy(), LoraConfig(rank=4)
    model = make_model(policy)
    attach(model, config)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert shapes.of_tiny(policy).adapters(config) == trained


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({"model_type": "mamba"}, "model_type 'mamba'"),
        ({"model_type": "qwen3_moe"}, "mixtures of experts are not planned"),
        ({"model_type": "qwen2", "hidden_size": 8}, "num_hidden_layers"),
        ({"model_type": "qwen2", "hidden_size": "wide"}, "hidden_size is 'wide'"),
        ([], "not an object"),
    ],
)
def test_a_configuration_of_nothing_known_is_refused_by_name(tmp_path: Path, config: object, complaint: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=complaint):
        shapes.of_directory(tmp_path)


def test_a_directory_without_a_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"config\.json: No such file"):
        shapes.of_directory(tmp_path)


def test_a_published_model_is_found_by_the_last_part_of_its_name() -> None:
    assert shapes.published("qwen2.5-math-7b") == shapes.published("Qwen/Qwen2.5-Math-7B") is not None
    assert shapes.published("/models/Qwen2.5-Math-7B/") == shapes.published("Qwen/Qwen2.5-Math-7B")
    assert shapes.published("7B") is None
