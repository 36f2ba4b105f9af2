"""Adding up figures over micro-batches and ranks: sums (of scalars or of vectors), except `*_min` and `*_max`."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed as dist


class Tally:
    """Accumulates tensors by name; `reduce` merges the ranks' tallies. All ranks must add the same names in the same shapes."""

    def __init__(self) -> None:
        self._values: dict[str, torch.Tensor] = {}

    def add(self, figures: Mapping[str, torch.Tensor]) -> None:
        """Merge one piece's figures."""
        for name, value in figures.items():
            fresh = value.detach().to(torch.float64)
            held = self._values.get(name)
            self._values[name] = fresh if held is None else _merge(name, held, fresh)

    def reduce(self) -> dict[str, torch.Tensor]:
        """Merge over ranks, onto the CPU; a minimum or maximum of nothing is 0."""
        reduced: dict[str, torch.Tensor] = {}
        for op, suffix in ((dist.ReduceOp.MIN, "_min"), (dist.ReduceOp.MAX, "_max"), (dist.ReduceOp.SUM, "")):
            names = sorted(name for name in self._values if _suffix(name) == suffix)
            if not names:
                continue
            flat = torch.cat([self._values[name].flatten() for name in names])
            dist.all_reduce(flat, op)
            if suffix:
                flat = flat.masked_fill(flat.isinf(), 0.0)
            pieces = flat.cpu().split([self._values[name].numel() for name in names])
            reduced |= {name: piece.view(self._values[name].shape) for name, piece in zip(names, pieces, strict=True)}
        return reduced


def _suffix(name: str) -> str:
    return next((suffix for suffix in ("_min", "_max") if name.endswith(suffix)), "")


def _merge(name: str, held: torch.Tensor, fresh: torch.Tensor) -> torch.Tensor:
    match _suffix(name):
        case "_min":
            return torch.minimum(held, fresh)
        case "_max":
            return torch.maximum(held, fresh)
        case _:
            return held + fresh
