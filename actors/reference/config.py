"""Settings of the reference pool."""

from __future__ import annotations

from pydantic import Field, model_validator

from actors.resources import CustomResources, Gpus
from actors.section import Section


class ReferenceConfig(Section):
    """Log-probs of the responses under the frozen starting policy, for the KL figure and, if asked for, the KL term."""

    enabled: bool = True
    """False leaves the pool out, and with it `learner/kl_ref`."""
    actors: int = Field(1, gt=0)
    """Scorers; each holds the whole model."""
    max_actors: int | None = Field(None, gt=0)
    """Scorers the pool may grow to while scoring is behind, and shrinks from when it is not; by default it stays as it is."""
    batch_tokens: int = Field(16_384, gt=0)
    """Tokens of one forward pass, prompts included; a longer response is a pass alone."""
    threads: int = Field(1, gt=0)
    """CPU threads of one scorer."""
    cpus: float = Field(0.1, ge=0)
    """Ray CPU share of one scorer."""
    gpus: Gpus = 1
    """GPUs of one scorer where the cluster has any; below 1 it shares one, 0 keeps it on the CPU."""
    resources: CustomResources = Field(default_factory=dict)
    """Custom Ray resources of one scorer; it goes only to a node that offers them."""

    @model_validator(mode="after")
    def _consistent(self) -> ReferenceConfig:
        if self.max_actors is not None and self.max_actors < self.actors:
            raise ValueError(f"max_actors: {self.max_actors} is less than actors ({self.actors})")
        return self
