"""Quantiles of values that are spread over micro-batches and ranks: counts in fixed bins, which add up.

Bins of one width in log |value| on both sides of 0, after DDSketch (arXiv 1908.10693): a quantile is off by at most 1.8 % of itself.
"""

from __future__ import annotations

import math
from functools import cache

import torch

SMALLEST, LARGEST, SIDE = 1e-6, 100.0, 512
"""Values below the smallest magnitude count as 0, those beyond the largest as the largest; bins on each side of 0."""

_GROWTH = (LARGEST / SMALLEST) ** (1 / SIDE)


def counts(values: torch.Tensor) -> torch.Tensor:
    """How many of the values [M] fall into each bin: [2 * SIDE + 1], float64."""
    places = torch.bucketize(values.detach().float(), _edges(values.device))
    return torch.bincount(places, minlength=2 * SIDE + 1).to(torch.float64)


def quantile(counted: torch.Tensor, share: float) -> float:
    """The value below which `share` of those counted lie; nan of nothing."""
    total = float(counted.sum())
    if total == 0:
        return math.nan
    rank = share * (total - 1)
    place = int(torch.searchsorted(counted.cumsum(0), rank, right=True))
    side = place - SIDE
    return math.copysign(SMALLEST * _GROWTH ** (abs(side) - 0.5), side) if side else 0.0


@cache
def _edges(device: torch.device) -> torch.Tensor:
    """[2 * SIDE]: the outermost bins are open."""
    powers = torch.arange(SIDE, dtype=torch.float64)
    upper = SMALLEST * _GROWTH**powers
    return torch.cat([-upper.flip(0), upper]).float().to(device)
