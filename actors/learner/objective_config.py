"""Settings of the objectives: one tagged type each. A bound is in log space or in ratio space, as the objective's paper writes it."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from actors.section import Section


class GmpoConfig(Section):
    """Geometric-Mean Policy Optimization (arXiv 2507.20673). Bounds are in log space, as the paper writes them: (e^-0.4, e^0.4)."""

    type: Literal["gmpo"] = "gmpo"
    clip_low: float = Field(0.4, ge=0)
    """Floor of a token's log-ratio is -clip_low where the advantage is negative."""
    clip_high: float = Field(0.4, ge=0)
    """Ceiling of a token's log-ratio where the advantage is positive."""
    clip: Literal["token", "sequence", "none"] = "token"
    """What is clipped: each token's log-ratio, the sum over the response (before the division by its length), or nothing."""
    length_normalized: bool = True
    """Take the geometric mean (exponent 1/length) rather than the bare product."""


class PmpoConfig(Section):
    """Power-mean family (arXiv 2601.22521) at a fixed exponent. Bounds are in log space, as GMPO's."""

    type: Literal["pmpo"] = "pmpo"
    power: float = Field(0.5, ge=-1, le=1)
    """Exponent of the mean over a response's token ratios: 1 arithmetic (GRPO), 0 geometric (GMPO), -1 harmonic (HMPO)."""
    clip_low: float = Field(0.4, ge=0)
    """Floor of a token's log-ratio is -clip_low where the advantage is negative."""
    clip_high: float = Field(0.4, ge=0)
    """Ceiling of a token's log-ratio where the advantage is positive."""


class GrpoConfig(Section):
    """Group Relative Policy Optimization (arXiv 2402.03300)."""

    type: Literal["grpo"] = "grpo"
    clip_low: float = Field(0.2, ge=0)
    """Where the advantage is negative a token's ratio counts as at least 1 - clip_low, or e^-clip_low with log bounds."""
    clip_high: float = Field(0.2, ge=0)
    """Where the advantage is positive a token's ratio counts as at most 1 + clip_high, or e^clip_high with log bounds."""
    bounds: Literal["ratio", "log"] = "ratio"
    """The space clip_low and clip_high are written in; log with 0.4 is the wide clip that GMPO is compared with."""

    @model_validator(mode="after")
    def _floor_is_positive(self) -> GrpoConfig:
        if self.bounds == "ratio" and self.clip_low >= 1:
            raise ValueError("clip_low: must be less than 1 with ratio bounds")
        return self

    @property
    def ratio_bounds(self) -> tuple[float, float]:
        """(floor, ceiling) of a token's ratio."""
        if self.bounds == "log":
            return math.exp(-self.clip_low), math.exp(self.clip_high)
        return 1 - self.clip_low, 1 + self.clip_high


class RatioClip(Section):
    """Bounds in ratio space: [1 - clip_low, 1 + clip_high]."""

    clip_low: float = Field(0.2, ge=0, lt=1)
    """A ratio counts as at least 1 - clip_low where the advantage is negative."""
    clip_high: float = Field(0.2, ge=0)
    """A ratio counts as at most 1 + clip_high where the advantage is positive."""

    @property
    def ratio_bounds(self) -> tuple[float, float]:
        """(floor, ceiling) of a ratio."""
        return 1 - self.clip_low, 1 + self.clip_high


class DrGrpoConfig(RatioClip):
    """Dr. GRPO (arXiv 2503.20783): GRPO with a constant in place of each response's length; goes with the `mean` advantage."""

    type: Literal["dr_grpo"] = "dr_grpo"
    max_length: int = Field(3000, gt=0)
    """Tokens that every response's sum is divided by. Set it to generation.max_tokens."""


class DapoConfig(RatioClip):
    """The loss of DAPO (arXiv 2503.14476): the ceiling above GRPO's, and every token of the update weighs the same."""

    type: Literal["dapo"] = "dapo"
    clip_high: float = Field(0.28, ge=0)
    """A ratio counts as at most 1 + clip_high where the advantage is positive."""


class PpoConfig(RatioClip):
    """PPO's clipped loss (arXiv 1707.06347) with dual clip (arXiv 1912.09729)."""

    type: Literal["ppo"] = "ppo"
    dual_clip: float | None = Field(3.0, gt=1)
    """Where the advantage is negative a token's ratio counts as at most this; null leaves it unbounded, as the first paper does."""


class GspoConfig(RatioClip):
    """Group Sequence Policy Optimization (arXiv 2507.18071). The bounds are of a response's geometric-mean ratio."""

    type: Literal["gspo"] = "gspo"
    clip_low: float = Field(3e-4, ge=0, lt=1)
    """A response's ratio counts as at least 1 - clip_low where the advantage is negative."""
    clip_high: float = Field(4e-4, ge=0)
    """A response's ratio counts as at most 1 + clip_high where the advantage is positive."""


class CispoConfig(RatioClip):
    """CISPO (arXiv 2506.13585): the ratio, clipped on both sides whatever the advantage, is a constant weight of log pi."""

    type: Literal["cispo"] = "cispo"
    clip_low: float = Field(1.0, ge=0, le=1)
    """A token weighs at least 1 - clip_low; 1 sets no floor."""
    clip_high: float = Field(4.0, ge=0)
    """A token weighs at most 1 + clip_high; 4 is the cap of 5 of ScaleRL (arXiv 2510.13786)."""


class SapoConfig(Section):
    """Soft Adaptive Policy Optimization (arXiv 2511.20347): a sigmoid of the ratio in place of a clip."""

    type: Literal["sapo"] = "sapo"
    tau_positive: float = Field(1.0, gt=0)
    """Steepness of the sigmoid where the advantage is positive."""
    tau_negative: float = Field(1.05, gt=0)
    """Steepness of the sigmoid where the advantage is negative; above tau_positive it damps the unstable side more."""


ObjectiveConfig = Annotated[
    GmpoConfig | PmpoConfig | GrpoConfig | DrGrpoConfig | DapoConfig | PpoConfig | GspoConfig | CispoConfig | SapoConfig,
    Field(discriminator="type"),
]
