"""Adding up figures over micro-batches and ranks: sums, except `*_min` and `*_max`."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed as dist


class Tally:
    """Accumulates scalars; `reduce` merges the ranks' tallies. All ranks must add the same names."""

    def __init__(self) -> None:
        self._values: dict[str, torch.Tensor] = {}

    def add(self, figures: Mapping[str, torch.Tensor]) -> None:
        """Merge one piece's figures, each a scalar tensor."""
        for name, value in figures.items():
            fresh = value.detach().to(torch.float64)
            held = self._values.get(name)
            self._values[name] = fresh if held is None else _merge(name, held, fresh)

    def reduce(self) -> dict[str, float]:
        """Merge over ranks; a minimum or maximum of nothing is 0."""
        reduced: dict[str, float] = {}
        for op, suffix in ((dist.ReduceOp.MIN, "_min"), (dist.ReduceOp.MAX, "_max"), (dist.ReduceOp.SUM, "")):
            names = sorted(name for name in self._values if _suffix(name) == suffix)
            if not names:
                continue
            stacked = torch.stack([self._values[name] for name in names])
            dist.all_reduce(stacked, op)
            if suffix:
                stacked = stacked.masked_fill(stacked.isinf(), 0.0)
            reduced.update(zip(names, stacked.tolist(), strict=True))
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
