"""Packed sequences must score, and teach, exactly as each would alone under the model's own eager attention."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    MixtralConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from actors.errors import ModelError
from actors.modeling import attention
from actors.modeling.attention import lay_out, use_packed_attention
from actors.modeling.packing import pack
from actors.modeling.scoring import Scorer
from actors.types import IntArray

CPU = torch.device("cpu")
PROMPTS, RESPONSES = [3, 9, 1, 6, 4, 2, 5], [7, 0, 20, 1, 5, 40, 7]
SHAPE = {
    "vocab_size": 97,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "max_position_embeddings": 256,
}
ARCHITECTURES = [Qwen2Config, LlamaConfig, Qwen3Config, MistralConfig, MixtralConfig]


def build(architecture: type[PreTrainedConfig], **settings: Any) -> Any:
    """A random model whose attention is anything but uniform."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(architecture(**{**SHAPE, "head_dim": 32, **settings}), attn_implementation="eager")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(5)
    return model.eval()


def sequences() -> list[IntArray]:
    random = np.random.default_rng(0)
    return [random.integers(0, 97, prompt + response).astype(np.int32) for prompt, response in zip(PROMPTS, RESPONSES, strict=True)]


def upstream() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(response, generator=generator) for response in RESPONSES]


def one_by_one(model: Any) -> list[torch.Tensor]:
    rows = []
    for sequence, prompt in zip(sequences(), PROMPTS, strict=True):
        tokens = torch.from_numpy(sequence.astype(np.int64))
        logits = model(input_ids=tokens[None]).logits[0, prompt - 1 : -1]
        rows.append(torch.log_softmax(logits, -1).gather(1, tokens[prompt:, None])[:, 0])
    return rows


def together(scorer: Scorer) -> list[torch.Tensor]:
    scores = scorer(pack(sequences(), PROMPTS, CPU), 1.0)
    return [row[:response] for row, response in zip(scores.logprobs, RESPONSES, strict=True)]


def gradients(model: Any, rows: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    model.zero_grad()
    sum((row * weights).sum() for row, weights in zip(rows, upstream(), strict=True)).backward()  # type: ignore[union-attr]
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def assert_same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    for name, gradient in theirs.items():
        assert (ours[name] - gradient).norm() <= 1e-5 * gradient.norm(), name


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("spare", [0, 60, 2**16], ids=["a bucket per length", "several buckets", "one bucket"])
def test_packed_sequences_score_and_teach_as_each_alone(
    architecture: type[PreTrainedConfig], spare: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "SPARE_PAIRS", spare)
    model = build(architecture)
    alone = one_by_one(model)
    wanted = gradients(model, alone)
    packed = together(Scorer(model))
    for ours, theirs in zip(packed, alone, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    assert_same(gradients(model, packed), wanted)


def test_recomputed_activations_give_the_same_gradients() -> None:
    model = build(Qwen2Config)
    scorer = Scorer(model)
    wanted = gradients(model, together(scorer))
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    scorer.train()
    assert_same(gradients(model, together(scorer)), wanted)


def test_what_a_model_drops_out_while_it_trains_is_not_dropped_here() -> None:
    scorer = Scorer(build(Qwen2Config, attention_dropout=0.5))
    wanted = together(scorer.eval())
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(together(scorer.train()), wanted, strict=True))


def test_no_mask_is_ever_built() -> None:
    model, masks = build(LlamaConfig), []
    scorer = Scorer(model)
    for layer in model.model.layers:
        layer.register_forward_pre_hook(lambda _, args, kwargs: masks.append(kwargs["attention_mask"]), with_kwargs=True)
    together(scorer)
    assert masks == [None] * 3


def test_a_window_that_no_sequence_outgrows_changes_nothing() -> None:
    model = build(MistralConfig, sliding_window=64)
    for ours, theirs in zip(one_by_one(model), together(Scorer(model)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_a_sequence_longer_than_the_window_is_refused() -> None:
    with pytest.raises(ModelError, match="42 tokens is longer than the model's sliding window of 16"):
        together(Scorer(build(MistralConfig, sliding_window=16)))


def test_a_model_without_attention_is_refused() -> None:
    with pytest.raises(ModelError, match=r"MambaForCausalLM mixes tokens by linear_attention"):
        use_packed_attention(AutoModelForCausalLM.from_config(MambaConfig(vocab_size=97, hidden_size=32, num_hidden_layers=1)))


def test_a_model_called_without_a_layout_is_refused() -> None:
    scorer = Scorer(build(Qwen2Config))
    with pytest.raises(ModelError, match="call the model through its Scorer"):
        scorer.model(input_ids=torch.ones(1, 4, dtype=torch.int64))


@pytest.mark.parametrize("settings", [{"softcap": 50.0}, {"s_aux": torch.zeros(4)}])
def test_capped_scores_and_sinks_are_refused(settings: dict[str, Any]) -> None:
    query = torch.randn(1, 4, 6, 32)
    with pytest.raises(ModelError, match="not supported"):
        attention.attend(None, query, query, query, None, sequences=lay_out([4, 2], CPU), **settings)


def test_the_saved_configuration_names_no_attention() -> None:
    """Versions carry the learner's configuration to engines, which attend in their own way."""
    assert attention.NAME not in Scorer(build(Qwen2Config)).model.config.to_json_string(use_diff=False)
