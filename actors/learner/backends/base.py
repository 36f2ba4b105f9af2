"""What the learner asks of a backend: a few methods behind which parameters, gradients and optimizer state may be spread over ranks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from actors.modeling.logprobs import TokenScores
from actors.modeling.packing import Packed
from actors.weights.protocol import ParamSpec


class Backend(Protocol):
    """A policy under training. Every method is called by all ranks together."""

    device: torch.device

    def score(self, batch: Packed, temperature: float, *, entropy_gradient: bool = False) -> TokenScores:
        """Forward pass: [N, T] log-probs (differentiable) and entropies (differentiable if asked for)."""
        ...

    def backward(self, loss: torch.Tensor, *, last: bool) -> None:
        """Add this micro-batch's gradient; gradients are summed over ranks at the `last` of an update, not before."""
        ...

    def step(self, lr: float) -> float:
        """Clip, update the parameters, forget the gradients. Returns the gradient norm over all parameters, before clipping.

        Where that norm is not finite, nothing changes on any rank but that the gradients are forgotten.
        """
        ...

    def discard(self) -> None:
        """Forget the gradients of the present update, as if it had not been."""
        ...

    def specs(self) -> Sequence[ParamSpec]:
        """The parameters as they travel to engines and files, tied ones under each of their names."""
        ...

    def tensors(self) -> Iterator[torch.Tensor]:
        """Whole tensors in the order of `specs`, in their wire dtype, one at a time."""
        ...

    def snapshot(self) -> Mapping[str, Any]:
        """This rank's part of parameters and optimizer state, as torch DCP writes it. It may share memory with the policy."""
        ...

    def load(self, directory: Path) -> None:
        """Read what DCP wrote, on any number of ranks."""
        ...
