"""Settings of the HTTP endpoint."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from actors.section import Section


class ServeConfig(Section):
    """How a run's policy answers over HTTP. The endpoint listens on 127.0.0.1 only: it has no keys."""

    port: int = Field(8000, ge=0, le=65535)
    """TCP port; 0 takes any free one."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number type the engine computes in; auto is the type of the stored weights."""
    max_model_len: int | None = Field(None, gt=0)
    """Longest prompt + answer, in tokens; by default what the model was built for."""
    max_running: int = Field(64, gt=0)
    """Answers decoded together; further requests wait."""
    max_waiting: int = Field(256, ge=0)
    """Requests that may wait for a free place; beyond it they get 503."""
    request_timeout_s: float = Field(600, gt=0)
    """Seconds after which an unanswered request is given up with 408, for one where the engine is gone as well as for a long answer."""
    kv_cache_mib: int | None = Field(None, gt=0)
    """Memory for keys and values, in MiB; on a GPU the default is what gpu_memory_share leaves, on a CPU 256."""
    gpus: int = Field(0, ge=0)
    """GPUs that share the weights; 0 serves on the CPU."""
    gpu_memory_share: float = Field(0.85, gt=0, le=1)
    """Share of a GPU's memory the engine may take."""
    eager: bool = True
    """Do not compile or capture graphs: ready sooner, slower on a GPU (always so on a CPU)."""
    threads: int = Field(1, gt=0)
    """CPU threads of the model."""
    cpus: float = Field(0.25, ge=0)
    """Ray CPU share of the endpoint."""
    start_timeout_s: float = Field(600, gt=0)
    """Seconds until the endpoint must be ready."""
