"""Settings of the HTTP endpoint."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from actors.section import Section


class LimitsConfig(Section):
    """What one request, and one key, may ask for. Beyond, the answer is 400, 413 or 429, before an engine hears of it."""

    samples: int = Field(16, gt=0)
    """Answers of one request: its prompts times `n`."""
    max_tokens: int = Field(4096, gt=0)
    """Longest answer, in tokens; also what a request gets that names no length, where the context has room for it."""
    body_bytes: int = Field(1 << 20, gt=0)
    """Size of a request's body."""
    logprobs: int = Field(5, ge=0, le=20)
    """Alternatives told for each token."""
    stops: int = Field(4, ge=0)
    """Stop strings, each of at most 256 characters."""
    logit_bias: int = Field(300, ge=0)
    """Entries of `logit_bias`."""
    running_per_key: int = Field(64, gt=0)
    """Requests that one key may have under way."""


class ServeConfig(Section):
    """How a run's policy answers over HTTP."""

    host: str = "127.0.0.1"
    """Address to listen on. TLS, and who may reach another address than loopback, are the business of what stands in front."""
    port: int = Field(8000, ge=0, le=65535)
    """TCP port; 0 takes any free one."""
    keys_file: str | None = None
    """File of hashed API keys (see `gmpo policy key`), read again when it changes. Without one `gmpo serve` makes a key and prints it."""
    open: bool = False
    """Answer without keys, admin routes included; only on loopback."""
    during_training: bool = False
    """Answer while the run trains, on the run's own cluster, with one resident version."""
    replicas: int = Field(1, gt=0)
    """Processes that answer, each with engines of its own."""
    resident: int = Field(2, gt=0)
    """Versions that one replica holds in memory, an engine each. Others take the place of one that nobody uses."""
    best_by: str = "eval/greedy"
    """Metric by which `policy@best` is chosen, greatest first: eval/greedy, eval/sampled, reward/mean, or `<suite>/pass@1`."""
    poll_s: float = Field(1.0, gt=0)
    """Seconds between two looks at which versions there are and which of them `policy` means."""
    stay_s: float = Field(2.0, ge=0)
    """Seconds a version stays at least before another one takes its place."""
    wait_s: float = Field(30.0, gt=0)
    """Seconds a request waits for its version to be loaded; then 503."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number type the engine computes in; auto is the type of the stored weights."""
    max_model_len: int | None = Field(None, gt=0)
    """Longest prompt + answer, in tokens; by default what the model was built for."""
    max_running: int = Field(64, gt=0)
    """Answers that one engine decodes together; further requests wait."""
    max_waiting: int = Field(256, ge=0)
    """Requests a replica takes beyond those its engines decode; further ones get 503."""
    request_timeout_s: float = Field(600, gt=0)
    """Seconds after which an unanswered request is given up with 408, for one where the engine is gone as well as for a long answer."""
    limits: LimitsConfig = LimitsConfig()
    kv_cache_mib: int | None = Field(None, gt=0)
    """Memory of one engine for keys and values, in MiB; on a GPU the default is what gpu_memory_share leaves, on a CPU 256."""
    gpus: int = Field(0, ge=0)
    """GPUs of a replica, over which each of its engines spreads its weights; 0 serves on the CPU."""
    gpu_memory_share: float = Field(0.85, gt=0, le=1)
    """Share of a GPU's memory that a replica's engines may take together."""
    eager: bool = True
    """Do not compile or capture graphs: ready sooner, slower on a GPU (always so on a CPU)."""
    threads: int = Field(1, gt=0)
    """CPU threads of one engine's model."""
    cpus: float = Field(0.25, ge=0)
    """Ray CPU share of a replica."""
    start_timeout_s: float = Field(600, gt=0)
    """Seconds until the endpoint must be ready."""

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the endpoint."""
        return self.host in {"127.0.0.1", "localhost", "::1"}

    @property
    def most_under_way(self) -> int:
        """Requests that one replica takes at once."""
        return self.max_running * self.resident + self.max_waiting

    @model_validator(mode="after")
    def _closed(self) -> ServeConfig:
        if self.open and not self.is_loopback:
            raise ValueError(f"open: only on loopback; {self.host} is reached by others")
        if not self.is_loopback and self.keys_file is None:
            raise ValueError(f"keys_file: needed to listen on {self.host}, which is reached by others")
        return self
