"""The learner's CUDA path, and weights on their way from a GPU. Needs one CUDA device, and neither Ray nor vLLM."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from actors.weights.groups import GlooGroup
from actors.weights.protocol import Digest, ParamSpec, pack, unpack
from tests.learning import gradients
from tests.ports import free_port

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


def test_the_gradient_on_a_gpu_is_that_on_a_cpu(tmp_path: Path) -> None:
    expected, loss, clipped = gradients(tmp_path, ranks=1, budget=100_000)
    for budget in (100_000, 64):
        found, found_loss, found_clipped = gradients(tmp_path, ranks=1, budget=budget, device="cuda")
        # The first update's gradient alone: later ones differ by what AdamW makes of rounding.
        assert np.linalg.norm(found[0] - expected[0]) <= 1e-4 * np.linalg.norm(expected[0])
        assert found_loss == pytest.approx(loss, rel=1e-3)
        assert found_clipped == pytest.approx(clipped, rel=1e-3)


def test_weights_travel_from_a_gpu_through_host_memory() -> None:
    tensors = [torch.randn(300, 70, device="cuda", dtype=dtype) for dtype in (torch.float32, torch.bfloat16)]
    specs = [ParamSpec(str(index), str(tensor.dtype).removeprefix("torch."), (300, 70)) for index, tensor in enumerate(tensors)]
    port, size = free_port(), sum(spec.size_bytes for spec in specs)
    received = torch.empty(size, dtype=torch.uint8)

    def receive() -> None:
        group = GlooGroup("127.0.0.1", port, 1, 2, connect_timeout_s=60, send_timeout_s=60)
        group.broadcast(received)

    receiver = threading.Thread(target=receive)
    receiver.start()
    sent = pack(tensors, torch.device("cpu"))
    GlooGroup("127.0.0.1", port, 0, 2, connect_timeout_s=60, send_timeout_s=60).broadcast(sent)
    receiver.join(60)
    for (_, found), tensor in zip(unpack(received, specs), tensors, strict=True):
        assert torch.equal(found, tensor.cpu())


def test_a_digest_taken_on_a_gpu_sees_a_flipped_byte_and_a_swap() -> None:
    def digest(buffer: torch.Tensor) -> str:
        running = Digest()
        running.update(buffer)
        return running.hexdigest()

    buffer = torch.randint(0, 256, (1_000_003,), dtype=torch.uint8, device="cuda")
    flipped, swapped = buffer.clone(), buffer.clone()
    flipped[77] ^= 1
    swapped[:2] = buffer[:2].flip(0) if buffer[0] != buffer[1] else torch.tensor([1, 2], dtype=torch.uint8, device="cuda")
    assert digest(buffer) == digest(buffer.clone())
    assert len({digest(buffer), digest(flipped), digest(swapped)}) == 3
