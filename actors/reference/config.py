"""Settings of the reference pool."""

from __future__ import annotations

from pydantic import Field

from actors.section import Section


class ReferenceConfig(Section):
    """Log-probs of the responses under the frozen starting policy, for the KL figure and, if asked for, the KL term."""

    enabled: bool = True
    """False leaves the pool out, and with it `learner/kl_ref`."""
    actors: int = Field(1, gt=0)
    """Scorers; each holds the whole model."""
    batch_tokens: int = Field(16_384, gt=0)
    """Tokens of one forward pass, prompts included; a longer response is a pass alone."""
    threads: int = Field(1, gt=0)
    """CPU threads of one scorer."""
    cpus: float = Field(0.1, ge=0)
    """Ray CPU share of one scorer."""
    gpus: float = Field(1, ge=0)
    """GPUs of one scorer where the cluster has any."""
