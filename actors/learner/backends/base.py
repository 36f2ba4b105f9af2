"""What the learner asks of a backend: a few methods behind which parameters, gradients and optimizer state may be spread over ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import torch

from actors.modeling.logprobs import TokenScores
from actors.modeling.scoring import Rectangle
from actors.weights.protocol import ParamSpec


class Backend(Protocol):
    """A policy under training. Every method is called by all ranks together."""

    device: torch.device

    def score(self, batch: Rectangle, temperature: float) -> TokenScores:
        """Forward pass: [N, T] log-probs (differentiable) and entropies."""
        ...

    def backward(self, loss: torch.Tensor, *, last: bool) -> None:
        """Add this micro-batch's gradient; gradients are summed over ranks at the `last` of an update, not before."""
        ...

    def step(self, lr: float, max_grad_norm: float) -> float:
        """Clip, update the parameters, forget the gradients. Returns the gradient norm over all parameters, before clipping."""
        ...

    def specs(self) -> Sequence[ParamSpec]:
        """The parameters as they travel to engines and files, tied ones under each of their names."""
        ...

    def tensors(self) -> Iterator[torch.Tensor]:
        """Whole tensors in the order of `specs`, in their wire dtype, one at a time."""
        ...

    def save(self, directory: Path) -> None:
        """Write this rank's part of parameters and optimizer state."""
        ...

    def load(self, directory: Path) -> None:
        """Read it back, on any number of ranks."""
        ...
