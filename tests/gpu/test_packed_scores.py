"""Packed attention and chunked log-probs on a GPU in half precision, held against a CPU in float32. Needs one CUDA device."""

from __future__ import annotations

import pytest
import torch

from actors.modeling.attention import attend, lay_out
from actors.modeling.logprobs import score_tokens

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

LENGTHS = [300, 7, 1, 129, 64]


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).bfloat16().float()


def close(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    return bool((ours.cpu().float() - theirs).norm() <= 0.02 * theirs.norm())


def on(device: str, dtype: torch.dtype, *tensors: torch.Tensor) -> list[torch.Tensor]:
    return [tensor.to(device, dtype).requires_grad_() for tensor in tensors]


def test_no_sequence_sees_another_or_what_comes_after() -> None:
    total = sum(LENGTHS)
    streams = drawn(1, 8, total, 64), drawn(1, 2, total, 64), drawn(1, 2, total, 64)
    upstream, found = drawn(1, total, 8, 64), []
    for device, dtype in (("cuda", torch.bfloat16), ("cpu", torch.float32)):
        parts = on(device, dtype, *streams)
        attended, _ = attend(None, *parts, None, sequences=lay_out(LENGTHS, torch.device(device)), scaling=0.1)
        found.append([attended, *torch.autograd.grad(attended, parts, upstream.to(device, dtype))])
    assert all(close(ours, theirs) for ours, theirs in zip(*found, strict=True))


@pytest.mark.parametrize("chunk_logits", [None, 100 * 300])
def test_log_probs_and_their_gradients_are_those_of_float32(chunk_logits: int | None) -> None:
    hidden, weight, targets = drawn(300, 64), drawn(1000, 64) * 0.2, torch.arange(300)
    upstream, found = drawn(300), []
    for device, dtype in (("cuda", torch.bfloat16), ("cpu", torch.float32)):
        parts = on(device, dtype, hidden, weight)
        scores = score_tokens(*parts, targets.to(device), temperature=0.8, entropy_gradient=True, chunk_logits=chunk_logits)
        loss = (scores.logprobs * upstream.to(device)).sum() + scores.entropy.sum()
        found.append([*scores, *torch.autograd.grad(loss, parts)])
    assert all(close(ours, theirs) for ours, theirs in zip(*found, strict=True))
