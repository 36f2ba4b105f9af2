from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from actors.modeling.scoring import Scorer, rectangle
from actors.types import IntArray
from tests.tiny_model import build_model

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return Scorer(build_model(0)).eval()


def sequence(seed: int, length: int) -> IntArray:
    return np.random.default_rng(seed).integers(0, 256, length).astype(np.int32)


def logprobs(scorer: Scorer, sequences: Sequence[IntArray], prompts: Sequence[int], temperature: float = 1.0) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = scorer(rectangle(sequences, prompts, CPU), temperature).logprobs
    return found


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_a_row_scores_what_the_model_says_of_it(scorer: Scorer, temperature: float) -> None:
    tokens, prompt = sequence(0, 12), 5
    with torch.no_grad():
        logits = scorer.model(torch.tensor(tokens[None].astype(np.int64))).logits[0] / temperature
    wanted = [torch.log_softmax(logits[place - 1], -1)[int(tokens[place])].item() for place in range(prompt, 12)]
    np.testing.assert_allclose(logprobs(scorer, [tokens], [prompt], temperature)[0], wanted, atol=1e-5)


def test_a_padded_rectangle_scores_each_row_as_if_it_were_alone(scorer: Scorer) -> None:
    prompts, lengths = [3, 9, 1, 6, 4], [7, 0, 20, 1, 5]
    sequences = [sequence(index, prompt + length) for index, (prompt, length) in enumerate(zip(prompts, lengths, strict=True))]
    together = logprobs(scorer, sequences, prompts)
    assert together.shape == (5, 20)
    for row, (tokens, prompt, length) in enumerate(zip(sequences, prompts, lengths, strict=True)):
        alone = logprobs(scorer, [tokens], [prompt])[0, :length]
        torch.testing.assert_close(together[row, :length], alone, rtol=0, atol=1e-5)
        assert not together[row, length:].any()


def test_rows_without_a_response_have_no_scores_but_a_gradient(scorer: Scorer) -> None:
    scores = scorer(rectangle([sequence(0, 4), sequence(1, 2)], [4, 2], CPU), 1.0)
    assert scores.logprobs.shape == (2, 1) and not scores.logprobs.any() and not scores.entropy.any()
    assert scores.logprobs.requires_grad


def test_the_mask_stands_where_responses_are() -> None:
    batch = rectangle([sequence(0, 5), sequence(1, 3)], [2, 3], CPU)
    assert batch.mask.tolist() == [[True] * 3, [False] * 3]
    assert batch.token_ids[1].tolist()[3:] == [0, 0]
