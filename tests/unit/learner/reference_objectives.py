"""Every objective in float64, response by response, straight from its formula and with its gradient derived by hand.

Nothing here is shared with the implementation, and nothing is done for speed or range: products are products, means are means.
A token's log-ratio is first cut to +-30, as is the sum that GMPO exponentiates without length normalisation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tests.unit.learner.objective_batches import Array, Batch

LIMIT = 30.0


class Response(NamedTuple):
    """The tokens of one response that are under the mask."""

    logprobs: Array  # [L]
    raw: Array  # [L] log-ratios before the clamp
    advantage: float
    weights: Array  # [L] correction

    @property
    def ratios(self) -> Array:
        return np.exp(np.clip(self.raw, -LIMIT, LIMIT))

    @property
    def live(self) -> NDArray[np.bool_]:
        """Tokens within the clamp, which have a gradient."""
        return np.abs(self.raw) <= LIMIT


class Share(NamedTuple):
    """One response's part of J before the division by the update's total."""

    value: float
    slope: Array  # [L] derivative with respect to each token's log-prob
    clipped: float  # tokens, or responses, whose clip changes the value


Reference = Callable[[Mapping[str, Any], Response], Share]


def surrogate(ratio: Any, advantage: float, floor: float, ceiling: float) -> tuple[Any, Any]:
    """min(r A, clip(r) A), and where r itself is what the min takes."""
    free, bounded = ratio * advantage, np.clip(ratio, floor, ceiling) * advantage
    return np.minimum(free, bounded), free <= bounded


def gmpo(settings: Mapping[str, Any], response: Response) -> Share:
    """Equation 4: (prod |min(rho A, clip(rho) A)|)^(1/|o|) sgn(A), with the roots and signs taken out of the product as logarithms."""
    advantage, count, kept = response.advantage, len(response.raw), response.weights > 0
    if advantage == 0 or not kept.any():
        return Share(0.0, np.zeros(count), 0)
    low, high = np.exp(-settings.get("clip_low", 0.4)), np.exp(settings.get("clip_high", 0.4))
    ratios, clip = response.ratios[kept], settings.get("clip", "token")
    free, clipped = np.ones(len(ratios), dtype=np.bool_), 0
    if clip == "token":
        values, free = surrogate(ratios, advantage, low, high)
        ratios, clipped = np.abs(values) / abs(advantage), int((~free).sum())
    total = np.log(ratios).sum()
    if clip == "sequence":
        # The product may be beyond float64: clipped as a logarithm.
        bound = total > settings.get("clip_high", 0.4) if advantage > 0 else total < -settings.get("clip_low", 0.4)
        total = (np.log(high) if advantage > 0 else np.log(low)) if bound else total
        free, clipped = free & (not bound), int(bound)
    mean_weight = np.exp(np.log(response.weights[kept]).sum() / count)
    slope = np.zeros(count)
    if settings.get("length_normalized", True):
        value = advantage * np.exp(total / count) * mean_weight
        slope[kept] = value / count * free
    else:
        value = advantage * np.exp(np.clip(total, -LIMIT, LIMIT)) * mean_weight
        slope[kept] = value * free * (abs(total) <= LIMIT)
    return Share(value, slope * response.live, clipped)


def pmpo(settings: Mapping[str, Any], response: Response) -> Share:
    """A (1/|o| sum (w r~)^p)^(1/p); d/dd_t = A M^(1-p) (w r~)_t^p / |o|. Rejected tokens are a 1 in the mean."""
    power, count, kept = settings.get("power", 0.5), len(response.raw), response.weights > 0
    if power == 0:
        return gmpo({**settings, "clip": "token"}, response)
    if response.advantage == 0 or not kept.any():
        return Share(0.0, np.zeros(count), 0)
    low, high = np.exp(-settings.get("clip_low", 0.4)), np.exp(settings.get("clip_high", 0.4))
    values, free = surrogate(response.ratios, response.advantage, low, high)
    clipped = np.where(kept, values / response.advantage * response.weights, 1.0)
    mean = np.mean(clipped**power) ** (1 / power)
    slope = response.advantage * mean ** (1 - power) * clipped**power / count
    return Share(response.advantage * mean, slope * free * kept * response.live, int((~free & kept).sum()))


def token_sum(response: Response, floor: float, ceiling: float, dual: float | None = None) -> Share:
    """sum_t w min(r A, clip(r) A), not below dual A where A < 0."""
    ratios, advantage = response.ratios, response.advantage
    values, free = surrogate(ratios, advantage, floor, ceiling)
    if dual is not None and advantage < 0:
        free = free & (values >= dual * advantage)
        values = np.maximum(values, dual * advantage)
    slope = np.where(free & response.live, ratios * advantage * response.weights, 0.0)
    return Share(float((values * response.weights).sum()), slope, int((~free & (response.weights > 0)).sum()))


def ratio_bounds(settings: Mapping[str, Any], low: float, high: float) -> tuple[float, float]:
    low, high = settings.get("clip_low", low), settings.get("clip_high", high)
    return (np.exp(-low), np.exp(high)) if settings.get("bounds") == "log" else (1 - low, 1 + high)


def divided(share: Share, by: int) -> Share:
    return Share(share.value / by, share.slope / by, share.clipped)


def grpo(settings: Mapping[str, Any], response: Response) -> Share:
    return divided(token_sum(response, *ratio_bounds(settings, 0.2, 0.2)), max(1, len(response.raw)))


def dr_grpo(settings: Mapping[str, Any], response: Response) -> Share:
    return divided(token_sum(response, *ratio_bounds(settings, 0.2, 0.2)), settings.get("max_length", 3000))


def dapo(settings: Mapping[str, Any], response: Response) -> Share:
    return token_sum(response, *ratio_bounds(settings, 0.2, 0.28))


def ppo(settings: Mapping[str, Any], response: Response) -> Share:
    return token_sum(response, *ratio_bounds(settings, 0.2, 0.2), settings.get("dual_clip", 3.0))


def gspo(settings: Mapping[str, Any], response: Response) -> Share:
    """g min(s A, clip(s) A) with s = exp(mean d); ds/dd_t = s / |o|."""
    count, kept = len(response.raw), response.weights > 0
    if not kept.any():
        return Share(0.0, np.zeros(count), 0)
    ratio = np.exp(np.log(response.ratios[kept]).sum() / count)
    value, free = surrogate(ratio, response.advantage, *ratio_bounds(settings, 3e-4, 4e-4))
    mean_weight = np.exp(np.log(response.weights[kept]).sum() / count)
    slope = np.full(count, ratio * response.advantage * mean_weight / count * free)
    return Share(value * mean_weight, slope * kept * response.live, int(not free))


def cispo(settings: Mapping[str, Any], response: Response) -> Share:
    """sum_t sg[w clip(r)] A log pi: the slope of log pi alone."""
    floor, ceiling = ratio_bounds(settings, 1.0, 4.0)
    slope = response.weights * np.clip(response.ratios, floor, ceiling) * response.advantage
    outside = (response.ratios < floor) | (response.ratios > ceiling)
    clipped = (outside & (response.weights > 0)).sum() if response.advantage else 0
    return Share(float((slope * response.logprobs).sum()), slope, int(clipped))


def sapo(settings: Mapping[str, Any], response: Response) -> Share:
    """1/|o| sum_t w (4/tau) sigma(tau (r - 1)) A; the derivative of sigma(x) is sigma(x) sigma(-x)."""
    tau = settings.get("tau_positive", 1.0) if response.advantage > 0 else settings.get("tau_negative", 1.05)
    count = max(1, len(response.raw))
    odds = np.exp(-tau * (response.ratios - 1))
    above, below = 1 / (1 + odds), odds / (1 + odds)
    value = 4 / tau * (above * response.weights).sum() * response.advantage / count
    slope = 4 * above * below * response.ratios * response.weights * response.advantage / count
    return Share(value, slope * response.live, 0)


REFERENCES: dict[str, tuple[Reference, str]] = {
    "gmpo": (gmpo, "sequences"),
    "pmpo": (pmpo, "sequences"),
    "grpo": (grpo, "sequences"),
    "dr_grpo": (dr_grpo, "sequences"),
    "dapo": (dapo, "tokens"),
    "ppo": (ppo, "tokens"),
    "gspo": (gspo, "sequences"),
    "cispo": (cispo, "tokens"),
    "sapo": (sapo, "sequences"),
}
"""Each objective's share of a response, and what the sum over responses is divided by."""


class Expected(NamedTuple):
    loss: float
    terms: float  # sum of |responses' parts of the loss|
    gradient: Array  # [N, T]
    clipped: float  # tokens, or responses where the clip is on whole ones


def expected(config: Mapping[str, Any], batch: Batch) -> Expected:
    """Loss, gradient with respect to the log-probs, and clips of a whole update."""
    reference, unit = REFERENCES[config["type"]]
    total = max(1, len(batch.advantages) if unit == "sequences" else int(batch.mask.sum()))
    shares = []
    gradient = np.zeros(batch.logprobs.shape)
    for row, keep in enumerate(batch.mask):
        logprobs = batch.logprobs[row, keep]
        weights = np.ones(len(logprobs)) if batch.correction is None else batch.correction[row, keep]
        share = reference(config, Response(logprobs, logprobs - batch.old[row, keep], float(batch.advantages[row]), weights))
        shares.append(share)
        gradient[row, keep] = -share.slope / total
    losses = [-share.value / total for share in shares]
    return Expected(sum(losses), sum(map(abs, losses)), gradient, sum(share.clipped for share in shares))
