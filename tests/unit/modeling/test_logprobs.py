from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from actors.modeling import logprobs
from actors.modeling.logprobs import TokenScores, score_tokens

TOKENS, WIDTH, VOCABULARY = 23, 8, 50


def inputs(tokens: int = TOKENS) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, WIDTH, generator=generator, requires_grad=True)
    weight = torch.randn(VOCABULARY, WIDTH, generator=generator, requires_grad=True)
    return hidden, weight, torch.randint(VOCABULARY, (tokens,), generator=generator)


def expected(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, temperature: float) -> TokenScores:
    """All logits at once, in float64."""
    distribution = torch.log_softmax(hidden.double() @ weight.double().T / temperature, dim=-1)
    return TokenScores(distribution.gather(-1, targets[:, None]).squeeze(-1), -(distribution.exp() * distribution).sum(-1))


@pytest.fixture(params=[1, 7 * VOCABULARY, 2**24], ids=["one row at a time", "seven", "all"])
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(logprobs, "CHUNK_LOGITS", request.param)
    return int(request.param)


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_values_and_gradients_are_those_of_all_logits_at_once(temperature: float) -> None:
    ours, theirs = inputs(), inputs()
    found, wanted = score_tokens(*ours, temperature=temperature), expected(*theirs, temperature)
    torch.testing.assert_close(found.logprobs.double(), wanted.logprobs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.entropy.double(), wanted.entropy, rtol=1e-5, atol=1e-5)
    upstream = torch.linspace(-1, 1, TOKENS)
    (found.logprobs * upstream).sum().backward()
    (wanted.logprobs * upstream).sum().backward()
    for mine, reference in zip(ours[:2], theirs[:2], strict=True):
        torch.testing.assert_close(mine.grad, reference.grad, rtol=1e-4, atol=1e-5)


def test_no_more_logits_than_a_chunk_are_ever_alive_forward_or_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logprobs, "CHUNK_LOGITS", 4 * VOCABULARY)
    sizes: list[int] = []
    whole: Callable[..., Any] = logprobs._score_chunk

    def spy(hidden: torch.Tensor, *rest: Any) -> Any:
        sizes.append(len(hidden))
        return whole(hidden, *rest)

    saved: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tensor)
        return tensor

    monkeypatch.setattr(logprobs, "_score_chunk", spy)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = score_tokens(*inputs()).logprobs.sum()
    assert sizes == [4, 4, 4, 4, 4, 3]
    assert not [tensor for tensor in saved if tensor.shape[-1:] == (VOCABULARY,)]  # between the passes not even a chunk's logits
    loss.backward()
    assert sizes[6:] == [3, 4, 4, 4, 4, 4]


def test_without_gradients_nothing_is_kept() -> None:
    hidden, weight, targets = inputs()
    with torch.no_grad():
        assert not score_tokens(hidden, weight, targets).logprobs.requires_grad


def test_the_entropy_carries_no_gradient() -> None:
    assert not score_tokens(*inputs()).entropy.requires_grad


def test_half_precision_inputs_are_normalized_in_float32() -> None:
    hidden, weight, targets = inputs()
    found = score_tokens(hidden.bfloat16(), weight.bfloat16(), targets)
    assert found.logprobs.dtype == found.entropy.dtype == torch.float32
    torch.testing.assert_close(found.logprobs.double(), expected(hidden, weight, targets, 1.0).logprobs, rtol=0.05, atol=0.1)


def test_no_tokens_still_reach_every_parameter() -> None:
    """Sharded ranks meet in the backward pass: one with nothing to say must come too."""
    hidden, weight, targets = inputs(tokens=0)
    found = score_tokens(hidden, weight, targets)
    assert found.logprobs.shape == found.entropy.shape == (0,)
    found.logprobs.sum().backward()
    assert weight.grad is not None and not weight.grad.any()
