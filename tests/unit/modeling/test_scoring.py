from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, GraniteConfig, PhiConfig

from actors.errors import ModelError
from actors.modeling.packing import pack
from actors.modeling.scoring import Scorer
from actors.types import IntArray
from tests.tiny_model import build_model

CPU = torch.device("cpu")
SMALL = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return Scorer(build_model(0)).eval()


def sequence(seed: int, length: int) -> IntArray:
    return np.random.default_rng(seed).integers(0, 256, length).astype(np.int32)


def logprobs(scorer: Scorer, sequences: Sequence[IntArray], prompts: Sequence[int], temperature: float = 1.0) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = scorer(pack(sequences, prompts, CPU), temperature).logprobs
    return found


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_a_row_scores_what_the_model_says_of_it(scorer: Scorer, temperature: float) -> None:
    tokens, prompt = sequence(0, 12), 5
    with torch.no_grad():
        logits = build_model(0)(torch.tensor(tokens[None].astype(np.int64))).logits[0] / temperature
    wanted = [torch.log_softmax(logits[place - 1], -1)[int(tokens[place])].item() for place in range(prompt, 12)]
    np.testing.assert_allclose(logprobs(scorer, [tokens], [prompt], temperature)[0], wanted, atol=1e-5)


def test_packed_rows_score_as_if_each_were_alone(scorer: Scorer) -> None:
    prompts, lengths = [3, 9, 1, 6, 4], [7, 0, 20, 1, 5]
    sequences = [sequence(index, prompt + length) for index, (prompt, length) in enumerate(zip(prompts, lengths, strict=True))]
    together = logprobs(scorer, sequences, prompts)
    assert together.shape == (5, 20)
    for row, (tokens, prompt, length) in enumerate(zip(sequences, prompts, lengths, strict=True)):
        alone = logprobs(scorer, [tokens], [prompt])[0, :length]
        torch.testing.assert_close(together[row, :length], alone, rtol=0, atol=1e-5)
        assert not together[row, length:].any()


def test_rows_without_a_response_have_no_scores_but_reach_every_parameter() -> None:
    """Sharded ranks meet in the backward pass: one with nothing to say must come too."""
    scorer = Scorer(build_model(0))
    scores = scorer(pack([sequence(0, 4), sequence(1, 2)], [4, 2], CPU), 1.0)
    assert scores.logprobs.shape == (2, 1) and not scores.logprobs.any() and not scores.entropy.any()
    scores.logprobs.sum().backward()
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in scorer.parameters())


def test_entropies_teach_only_if_asked_to(scorer: Scorer) -> None:
    batch = pack([sequence(0, 9)], [4], CPU)
    assert not scorer(batch, 1.0).entropy.requires_grad
    scores = scorer(batch, 1.0, entropy_gradient=True)
    assert scores.entropy.requires_grad and (scores.entropy > 0).all()


def test_a_model_whose_logits_are_scaled_is_refused() -> None:
    with pytest.raises(ModelError, match="logits_scaling"):
        Scorer(AutoModelForCausalLM.from_config(GraniteConfig(**SMALL, logits_scaling=8.0)))


def test_a_model_whose_output_layer_has_a_bias_is_refused() -> None:
    with pytest.raises(ModelError, match="a bias of the output layer"):
        Scorer(AutoModelForCausalLM.from_config(PhiConfig(**SMALL)))
