"""Which policy is trained: a tiny one made on the spot, or a pretrained model's directory."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from actors.section import Section

Dtype = Literal["float32", "bfloat16"]


class WarmupConfig(Section):
    """Supervised learning that brings a tiny policy to where reinforcement can start."""

    lr: float = Field(2e-3, gt=0)
    """AdamW learning rate."""
    batch_size: int = Field(256, gt=0)
    """Problems per update."""
    max_updates: int = Field(600, gt=0)
    """Updates after which a policy that still misses the target is an error."""
    check_every: int = Field(5, gt=0)
    """Updates between two measurements of the sampled accuracy, as long as it is near 0; then every update is measured."""
    target: tuple[float, float] = (0.3, 0.55)
    """Sampled accuracy (share of right answers at temperature 1) at which teaching stops: at least the first, at most the second."""
    seed: int = 0
    """Seed of the initial weights and of the problems shown."""


class TinyPolicy(Section):
    """A Qwen2-architecture policy of about a million parameters with its own byte-level tokenizer."""

    type: Literal["tiny"] = "tiny"
    hidden_size: int = Field(128, gt=0)
    """Width of the residual stream."""
    layers: int = Field(4, gt=0)
    """Decoder layers."""
    heads: int = Field(4, gt=0)
    """Attention heads; hidden_size / heads is the head size, which the engine must support."""
    kv_heads: int = Field(2, gt=0)
    """Key-value heads (grouped-query attention)."""
    intermediate_size: int = Field(384, gt=0)
    """Width of the feed-forward layer."""
    max_positions: int = Field(1024, gt=0)
    """Longest sequence, in tokens."""
    tied: bool = True
    """Share the embedding with the output layer."""
    warmup: WarmupConfig = WarmupConfig()
    """How it is taught before reinforcement starts."""
    dtype: Dtype = "float32"
    """Type of the weights that engines hold and that versions are written in; the learner's master weights are always float32."""

    @model_validator(mode="after")
    def _fits_itself(self) -> TinyPolicy:
        if self.hidden_size % self.heads:
            raise ValueError(f"heads: hidden_size ({self.hidden_size}) is not a multiple of {self.heads}")
        if self.heads % self.kv_heads:
            raise ValueError(f"kv_heads: heads ({self.heads}) is not a multiple of {self.kv_heads}")
        return self


class PretrainedPolicy(Section):
    """A model in Hugging Face's layout: a directory, or a hub id at a pinned revision."""

    type: Literal["pretrained"]
    path: str
    """Directory with config.json, safetensors and tokenizer; or a hub id."""
    revision: str | None = None
    """Commit of a hub id; required for one."""
    dtype: Dtype = "bfloat16"
    """Type of the weights that engines hold and that versions are written in; the learner's master weights are always float32."""


PolicyConfig = Annotated[TinyPolicy | PretrainedPolicy, Field(discriminator="type")]
