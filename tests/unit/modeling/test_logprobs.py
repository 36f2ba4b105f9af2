from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from actors.modeling.logprobs import CHUNK_LOGITS, KEPT_LOGITS, TokenScores, score_tokens

TOKENS, WIDTH, VOCABULARY = 23, 8, 50
CHUNKS = [1, TOKENS, 7 * TOKENS, 49 * TOKENS, 50 * TOKENS, 2**24]
KEPT = [0, 14 * TOKENS, 2**24]


def inputs(tokens: int = TOKENS, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, WIDTH, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    weight = torch.randn(VOCABULARY, WIDTH, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    return hidden, weight, torch.randint(VOCABULARY, (tokens,), generator=generator)


def expected(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, temperature: float = 1.0) -> TokenScores:
    """All logits at once, in float64."""
    distribution = torch.log_softmax(hidden.double() @ weight.double().T / temperature, dim=-1)
    return TokenScores(distribution.gather(-1, targets[:, None]).squeeze(-1), -(distribution.exp() * distribution).sum(-1))


def upstream(tokens: int = TOKENS) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(tokens, generator=generator), torch.randn(tokens, generator=generator)


def loss(scores: TokenScores, *, entropy: bool) -> torch.Tensor:
    of_logprobs, of_entropy = upstream(len(scores.logprobs))
    total = (scores.logprobs * of_logprobs).sum()
    return total + (scores.entropy * of_entropy).sum() if entropy else total


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("kept", KEPT)
@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("entropy", [False, True])
def test_values_and_gradients_are_those_of_all_logits_at_once(chunk: int, kept: int, temperature: float, entropy: bool) -> None:
    ours, theirs = inputs(), inputs()
    found = score_tokens(*ours, temperature=temperature, entropy_gradient=entropy, chunk_logits=chunk, kept_logits=kept)
    wanted = expected(*theirs, temperature)
    assert found.logprobs.dtype == found.entropy.dtype == torch.float32
    torch.testing.assert_close(found.logprobs.double(), wanted.logprobs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.entropy.double(), wanted.entropy, rtol=1e-5, atol=1e-5)
    loss(found, entropy=entropy).backward()
    loss(wanted, entropy=entropy).backward()
    for mine, reference in zip(ours[:2], theirs[:2], strict=True):
        assert mine.grad is not None and reference.grad is not None
        assert (mine.grad - reference.grad).norm() < 1e-6 * reference.grad.norm()


@pytest.mark.parametrize("kept", [0, 2**24], ids=["recomputed", "kept"])
@pytest.mark.parametrize("entropy", [False, True])
def test_gradients_agree_with_finite_differences_in_float64(kept: int, entropy: bool) -> None:
    hidden, weight, targets = inputs(5, torch.float64)

    def score(hidden: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
        scores = score_tokens(hidden, weight, targets, temperature=0.7, entropy_gradient=entropy, chunk_logits=35, kept_logits=kept)
        return tuple(scores) if entropy else (scores.logprobs,)

    assert torch.autograd.gradcheck(score, (hidden, weight))


class Largest(TorchDispatchMode):
    """Notes the most elements among what operations return of the shape of logits."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.ndim == 2 and result.shape[0] == TOKENS and result.shape[1] != WIDTH:
            self.elements = max(self.elements, result.numel())
        return result


@pytest.mark.parametrize("kept", [0, 3])
def test_no_more_logits_are_alive_than_a_chunk_and_those_that_are_kept(kept: int) -> None:
    chunk = 4 * TOKENS
    saved: list[int] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tensor.numel())
        return tensor

    hidden, weight, targets = inputs()
    with Largest() as forward, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        scores = score_tokens(hidden, weight, targets, chunk_logits=chunk, kept_logits=kept * chunk + 1)
    with Largest() as backward:
        scores.logprobs.sum().backward()
    assert forward.elements == backward.elements == chunk
    assert saved.count(chunk) == kept and set(saved) - {chunk} == {hidden.numel(), weight.numel(), TOKENS}


def test_probabilities_far_below_what_float32_holds_give_finite_entropies_and_gradients() -> None:
    hidden, weight, targets = inputs()
    for kept in KEPT:
        hidden.grad = None
        scores = score_tokens(hidden * 300, weight, targets, entropy_gradient=True, chunk_logits=3 * TOKENS, kept_logits=kept)
        loss(scores, entropy=True).backward()
        assert hidden.grad is not None and hidden.grad.isfinite().all() and scores.entropy.isfinite().all()


def test_a_graph_that_is_kept_gives_the_same_gradient_twice() -> None:
    hidden, weight, targets = inputs()
    scores = score_tokens(hidden, weight, targets, entropy_gradient=True)
    first, second = (torch.autograd.grad(loss(scores, entropy=True), (hidden, weight), retain_graph=True) for _ in range(2))
    assert all(torch.equal(*pair) for pair in zip(first, second, strict=True))


def test_without_gradients_nothing_is_kept() -> None:
    hidden, weight, targets = inputs()
    with torch.no_grad():
        assert not score_tokens(hidden, weight, targets).logprobs.requires_grad


def test_the_entropy_carries_a_gradient_only_if_asked_to() -> None:
    assert not score_tokens(*inputs()).entropy.requires_grad
    assert score_tokens(*inputs(), entropy_gradient=True).entropy.requires_grad


@pytest.mark.parametrize("kept", KEPT)
def test_a_frozen_output_layer_or_frozen_hidden_states_get_no_gradient(kept: int) -> None:
    hidden, weight, targets = inputs()
    wanted = torch.autograd.grad(loss(score_tokens(hidden, weight, targets), entropy=False), (hidden, weight))
    for frozen in (0, 1):
        ours = inputs()
        ours[frozen].requires_grad_(False)
        loss(score_tokens(*ours, chunk_logits=3 * TOKENS, kept_logits=kept), entropy=False).backward()
        assert ours[frozen].grad is None
        torch.testing.assert_close(ours[1 - frozen].grad, wanted[1 - frozen], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kept", KEPT)
def test_half_precision_inputs_are_normalized_in_float32(kept: int) -> None:
    ours, theirs = inputs(dtype=torch.bfloat16), inputs(dtype=torch.bfloat16)
    found, wanted = score_tokens(*ours, chunk_logits=3 * TOKENS, kept_logits=kept), expected(*theirs)
    assert found.logprobs.dtype == found.entropy.dtype == torch.float32
    torch.testing.assert_close(found.logprobs.double(), wanted.logprobs, rtol=0.02, atol=0.02)
    loss(found, entropy=False).backward()
    loss(wanted, entropy=False).backward()
    for mine, reference in zip(ours[:2], theirs[:2], strict=True):
        assert mine.grad is not None and reference.grad is not None and mine.grad.dtype == torch.bfloat16
        assert (mine.grad - reference.grad).norm() < 0.02 * reference.grad.norm()


def test_no_tokens_still_reach_every_parameter() -> None:
    """Sharded ranks meet in the backward pass: one with nothing to say must come too."""
    hidden, weight, targets = inputs(tokens=0)
    found = score_tokens(hidden, weight, targets)
    assert found.logprobs.shape == found.entropy.shape == (0,)
    found.logprobs.sum().backward()
    assert weight.grad is not None and not weight.grad.any()


def test_every_kind_of_device_that_may_run_a_policy_has_a_chunk_size() -> None:
    assert set(CHUNK_LOGITS) == set(KEPT_LOGITS) == {"cpu", "cuda"}
