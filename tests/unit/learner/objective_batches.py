"""Batches for the tests of objectives: settings of every objective, random responses, and an objective's loss and gradient on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from hypothesis import strategies as st
from numpy.typing import NDArray

from actors.learner.objectives import BatchTotals, PolicyTerms, build

Array = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

GMPO = [
    {"type": "gmpo", "clip": clip, "length_normalized": normalized, "clip_low": low, "clip_high": high}
    for clip in ("token", "sequence", "none")
    for normalized in (True, False)
    for low, high in ((0.4, 0.4), (0.2, 0.6))
]
PMPO = [{"type": "pmpo", "power": power} for power in (-1.0, -0.5, 0.01, 0.5, 1.0)] + [
    {"type": "pmpo", "power": 0.0, "clip_low": 0.7, "clip_high": 0.1}
]
OBJECTIVES: list[dict[str, Any]] = [
    *GMPO,
    *PMPO,
    {"type": "grpo"},
    {"type": "grpo", "clip_low": 0.4, "clip_high": 0.4, "bounds": "log"},
    {"type": "grpo", "clip_low": 1.3, "clip_high": 0.0, "bounds": "log"},
    {"type": "dr_grpo", "max_length": 500},
    {"type": "dapo"},
    {"type": "ppo"},
    {"type": "ppo", "clip_low": 0.1, "clip_high": 0.5, "dual_clip": None},
    {"type": "gspo"},
    {"type": "gspo", "clip_low": 0.3, "clip_high": 0.1},
    {"type": "cispo"},
    {"type": "cispo", "clip_low": 0.5, "clip_high": 0.25},
    {"type": "sapo"},
    {"type": "sapo", "tau_positive": 2.0, "tau_negative": 0.5},
]
"""Every objective with its defaults, and with bounds that differ."""
ONE_EACH: list[dict[str, Any]] = [{"type": name} for name in ("gmpo", "pmpo", "grpo", "dr_grpo", "dapo", "ppo", "gspo", "cispo", "sapo")]


def label(config: Mapping[str, Any]) -> str:
    """A test id such as `grpo-0.4-0.4-log`."""
    return "-".join(str(value) for value in config.values())


class Batch(NamedTuple):
    logprobs: Array  # [N, T]
    old: Array  # [N, T]
    advantages: Array  # [N]
    mask: BoolArray  # [N, T]
    correction: Array | None = None  # [N, T]

    @property
    def totals(self) -> BatchTotals:
        return BatchTotals(len(self.advantages), int(self.mask.sum()))

    def rows(self, index: slice | NDArray[np.int64]) -> Batch:
        """A part of the batch, or the batch in another order."""
        correction = None if self.correction is None else self.correction[index]
        return Batch(self.logprobs[index], self.old[index], self.advantages[index], self.mask[index], correction)

    def narrowed(self, width: int) -> Batch:
        """Its first columns."""
        correction = None if self.correction is None else self.correction[:, :width]
        return Batch(self.logprobs[:, :width], self.old[:, :width], self.advantages, self.mask[:, :width], correction)

    def widened(self, columns: int) -> Batch:
        """With so many columns of padding more, which hold NaN."""
        room = ((0, 0), (0, columns))
        logprobs, old = (np.pad(part, room, constant_values=np.nan) for part in (self.logprobs, self.old))
        correction = None if self.correction is None else np.pad(self.correction, room, constant_values=np.nan)
        return Batch(logprobs, old, self.advantages, np.pad(self.mask, room), correction)


def batch_of(log_ratios: Any, advantages: Any, mask: Any = None, correction: Any = None) -> Batch:
    """A batch written out by hand; every token counts unless a mask says otherwise."""
    values = np.asarray(log_ratios, dtype=np.float64)
    keep = np.ones(values.shape, dtype=np.bool_) if mask is None else np.asarray(mask, dtype=np.bool_)
    weights = None if correction is None else np.asarray(correction, dtype=np.float64)
    return Batch(values - 1.0, np.full(values.shape, -1.0), np.asarray(advantages, dtype=np.float64), keep, weights)


def random_batch(random: np.random.Generator, lengths: list[int], advantages: list[float], scale: float, outliers: float) -> Batch:
    """Log-ratios within `scale`, a share of `outliers` within 40 (beyond the clamp); NaN and infinities wherever there is no token."""
    shape = len(lengths), max(1, *lengths)
    log_ratios = random.uniform(-scale, scale, shape)
    far = random.random(shape) < outliers
    log_ratios[far] = random.uniform(-40, 40, shape)[far]
    mask = np.arange(shape[1])[None, :] < np.asarray(lengths)[:, None]
    old = random.uniform(-3, 0, shape)
    logprobs = old + log_ratios
    logprobs[~mask] = random.choice([np.nan, np.inf, -np.inf, 0.0], shape)[~mask]
    old[~mask] = random.choice([np.nan, np.inf, -np.inf, 0.0], shape)[~mask]
    return Batch(logprobs, old, np.asarray(advantages, dtype=np.float64), mask)


def with_holes(batch: Batch, random: np.random.Generator, share: float) -> Batch:
    """Without a share of its tokens, as a tool's words between turns would leave it."""
    return batch._replace(mask=batch.mask & (random.random(batch.mask.shape) >= share))


def with_correction(batch: Batch, random: np.random.Generator, rejected: float) -> Batch:
    """With weights from 0.01 to 5 on tokens, a share of them 0, all of the last response's 0, and NaN wherever there is no token."""
    weights = np.exp(random.uniform(np.log(0.01), np.log(5), batch.mask.shape))
    weights[random.random(batch.mask.shape) < rejected] = 0.0
    weights[-1] = 0.0 if rejected else weights[-1]
    weights[~batch.mask] = np.nan
    return batch._replace(correction=weights)


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    """Responses of 0 to 500 tokens, some with holes, some with correction weights."""
    lengths = draw(st.lists(st.one_of(st.integers(0, 6), st.integers(0, 500)), min_size=1, max_size=5))
    signs = st.sampled_from([-2.5, -1.0, -0.3, 0.0, 0.7, 1.9])
    advantages = draw(st.lists(signs, min_size=len(lengths), max_size=len(lengths)))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    scale, outliers = draw(st.sampled_from([(0.0, 0.0), (0.3, 0.0), (0.3, 0.1), (5.0, 0.0), (30.0, 0.0), (1.0, 1.0)]))
    batch = random_batch(random, lengths, advantages, scale, outliers)
    batch = with_holes(batch, random, draw(st.sampled_from([0.0, 0.3])))
    rejected = draw(st.sampled_from([None, 0.0, 0.3]))
    return batch if rejected is None else with_correction(batch, random, rejected)


class Outcome(NamedTuple):
    loss: float
    gradient: Array  # [N, T] with respect to the log-probs
    metrics: dict[str, float]


def terms_of(batch: Batch, dtype: torch.dtype = torch.float64) -> PolicyTerms:
    """The batch as tensors, its log-probs ready for a gradient."""
    logprobs, old, advantages = (torch.tensor(part, dtype=dtype) for part in (batch.logprobs, batch.old, batch.advantages))
    correction = None if batch.correction is None else torch.tensor(batch.correction, dtype=dtype)
    return PolicyTerms(logprobs.requires_grad_(), old, advantages, torch.tensor(batch.mask), correction)


def computed(config: Any, batch: Batch, totals: BatchTotals | None = None, dtype: torch.dtype = torch.float64) -> Outcome:
    """What the objective says of the batch, or of a piece of an update that has these totals."""
    terms = terms_of(batch, dtype)
    result = build(config)(terms, totals or batch.totals)
    assert result.loss.dtype == dtype
    result.loss.backward()
    assert terms.logprobs.grad is not None
    metrics = {name: float(value) for name, value in result.metrics.items()}
    return Outcome(result.loss.item(), terms.logprobs.grad.double().numpy(), metrics)
