"""Settings of the objectives: one tagged type each."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

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


class GrpoConfig(Section):
    """Group Relative Policy Optimization (arXiv 2402.03300). Bounds are in ratio space: [1 - clip_low, 1 + clip_high]."""

    type: Literal["grpo"]
    clip_low: float = Field(0.2, ge=0, lt=1)
    """A token's ratio counts as at least 1 - clip_low where the advantage is negative."""
    clip_high: float = Field(0.2, ge=0)
    """A token's ratio counts as at most 1 + clip_high where the advantage is positive."""


ObjectiveConfig = Annotated[GmpoConfig | GrpoConfig, Field(discriminator="type")]
