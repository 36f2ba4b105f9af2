"""The count of what a forward pass keeps, against what autograd keeps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from transformers import AutoConfig, AutoModelForCausalLM

from actors.modeling import logprobs
from actors.modeling.packing import pack
from actors.modeling.scoring import Scorer
from services.plan import activations
from services.plan.shapes import Shape, from_config

ROWS, LENGTH = 4, 200


def build(family: str, dtype: torch.dtype, *, checkpointing: bool) -> tuple[Any, Shape]:
    config = AutoConfig.for_model(
        family,
        vocab_size=512,
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=64 if family == "qwen3" else 32,
        tie_word_embeddings=False,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.train()
    return model, from_config(config.to_dict(), "test")


def kept_bytes(model: Any) -> int:
    """Bytes of the distinct memory, parameters aside, that one forward pass leaves for its backward pass."""
    scorer = Scorer(model)
    batch = pack([np.arange(LENGTH, dtype=np.int32)] * ROWS, [1] * ROWS, torch.device("cpu"))
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor  # held, so that no other takes its place
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        scores = scorer(batch, 1.0)
    assert scores.logprobs.requires_grad
    return sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in parameters)


def outside_the_layers(shape: Shape, number: int) -> int:
    """What the log-probs keep: all logits, which are few here, and the rows of hidden states that they come from."""
    return ROWS * (LENGTH - 1) * (activations.LOGIT * shape.vocabulary + number * shape.hidden)


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_pass_keeps_what_is_counted(family: str, dtype: torch.dtype) -> None:
    model, shape = build(family, dtype, checkpointing=False)
    tokens, number = ROWS * LENGTH, dtype.itemsize
    # A CPU's attention does not lay its result out as the next matrix needs it, so there is a copy of it in each layer.
    copies = tokens * shape.layers * number * shape.heads * shape.head_size
    counted = tokens * activations.kept(shape, number, checkpointing=False) + outside_the_layers(shape, number) + copies
    assert kept_bytes(model) == pytest.approx(counted, rel=0.01)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_with_checkpointing_a_pass_keeps_the_inputs_of_layers(dtype: torch.dtype) -> None:
    model, shape = build("qwen2", dtype, checkpointing=True)
    tokens, number = ROWS * LENGTH, dtype.itemsize
    inputs = activations.kept(shape, number, checkpointing=True) - activations.layer_kept(shape, number)
    assert kept_bytes(model) == pytest.approx(tokens * inputs + outside_the_layers(shape, number), rel=0.01)


def test_blocks_of_logits_are_those_of_the_log_probs() -> None:
    assert activations.CHUNK_LOGITS == logprobs.CHUNK_LOGITS
    assert activations.KEPT_LOGITS == logprobs.KEPT_LOGITS
