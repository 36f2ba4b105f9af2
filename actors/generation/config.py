"""Settings of the generation pool."""

from __future__ import annotations

from pydantic import Field, model_validator

from actors.resources import CustomResources, Gpus
from actors.section import Section


class GenerationConfig(Section):
    """How responses are sampled, and on how many vLLM engines."""

    engines: int = Field(1, gt=0)
    """Independent engines; each holds the whole policy."""
    tensor_parallel: int = Field(1, gt=0)
    """GPUs that share one engine's weights."""
    group_size: int = Field(8, gt=1)
    """G, responses to one prompt; advantages compare them with each other."""
    max_tokens: int = Field(1024, gt=0)
    """Longest response, in tokens."""
    temperature: float = Field(1.0, gt=0)
    """Sampling temperature; log-probs are of the tempered distribution, in engine and learner alike."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Nucleus of the sampling distribution; below 1 the learner cannot reproduce the engine's log-probs exactly."""
    top_k: int = Field(0, ge=0)
    """Keep the k likeliest tokens; 0 keeps all."""
    max_model_len: int | None = Field(None, gt=0)
    """Longest prompt + response the engine plans for, in tokens; by default prompts.max_tokens + max_tokens."""
    max_running: int = Field(256, gt=0)
    """Responses one engine decodes together."""
    kv_cache_mib: int | None = Field(None, gt=0)
    """Memory for keys and values, in MiB; on a GPU the default is what gpu_memory_share leaves, on a CPU 256."""
    gpu_memory_share: float = Field(0.85, gt=0, le=1)
    """Share of a GPU's memory the engine may take."""
    eager: bool = False
    """Do not compile or capture graphs (always so on a CPU)."""
    threads: int = Field(1, gt=0)
    """CPU threads of one engine's model."""
    cpus: float = Field(0.25, ge=0)
    """Ray CPU share of one engine."""
    gpus: Gpus = Field(1, gt=0, le=1)
    """Share of a GPU for each of an engine's workers, where the cluster has any; below 1 others may have the rest of it."""
    resources: CustomResources = Field(default_factory=dict)
    """Custom Ray resources of one engine; it goes only to a node that offers them."""
    start_timeout_s: float = Field(600, gt=0)
    """Seconds an engine, a verifier or a reference actor may take to come up, also in place of one that died."""

    @model_validator(mode="after")
    def _shares_fairly(self) -> GenerationConfig:
        if self.gpus < 1 and self.tensor_parallel > 1:
            raise ValueError(f"gpus: {self.gpus:g} of a GPU; the workers of one engine (tensor_parallel) need a whole one each")
        if self.gpus < 1 and self.gpu_memory_share > self.gpus:
            raise ValueError(f"gpu_memory_share: {self.gpu_memory_share:g} of a GPU's memory, of which the engine has {self.gpus:g} (gpus)")
        return self
