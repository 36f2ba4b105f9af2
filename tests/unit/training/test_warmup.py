from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import torch

from actors.learner.backends import Backend
from actors.modeling import tiny
from actors.modeling.packing import Packed
from actors.prompts.config import DigitsSource, PromptsConfig
from actors.prompts.stream import open_stream
from services.training.warmup import _learn


@dataclass
class RecordingBackend:
    """Remembers what it was asked to learn."""

    device: torch.device
    batches: list[Packed] = field(default_factory=list)

    def score(self, batch: Packed, temperature: float) -> SimpleNamespace:
        self.batches.append(batch)
        return SimpleNamespace(logprobs=torch.zeros(batch.mask.shape, requires_grad=True))

    def backward(self, loss: torch.Tensor, *, last: bool) -> None:
        loss.backward()

    def step(self, lr: float) -> float:
        return lr


def taught(source: DigitsSource) -> str:
    """What two problems of the source are turned into, to be learned."""
    backend, tokenizer = RecordingBackend(torch.device("cpu")), tiny.make_tokenizer()
    stream = open_stream(PromptsConfig(source=source), tokenizer, seed=0)
    _learn(cast(Backend, backend), [stream.nth(0), stream.nth(1)], tokenizer, 1e-3)
    (batch,) = backend.batches
    return str(cast(Any, tokenizer).decode(batch.targets))


def test_a_response_is_taught_with_its_working_and_its_end() -> None:
    assert taught(DigitsSource(task="reverse", digits=2)).count(tiny.END) == 2
    first, second, rest = taught(DigitsSource(task="repeated_sum", digits=4)).split(tiny.END)
    assert not rest
    for response in (first, second):
        working, _, answer = response.partition("#")
        assert len(working.split(";")) == 3 and len(answer) == 4
