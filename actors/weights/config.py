"""Settings of the publication of policy versions to the engines."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from actors.section import Section


class WeightsConfig(Section):
    """How a new policy version travels from the learner into the engines."""

    transport: Literal["auto", "nccl", "gloo"] = "auto"
    """nccl between GPUs, gloo through host memory; auto takes nccl where every engine and the learner have GPUs of their own."""
    bucket_mib: int = Field(64, gt=0)
    """Bytes gathered and sent at a time, in MiB: memory against per-message cost."""
    connect_timeout_s: float = Field(120, gt=0)
    """Seconds for all engines to join the group."""
    send_timeout_s: float = Field(300, gt=0)
    """Seconds for all bytes to arrive and be loaded."""
    control_timeout_s: float = Field(60, gt=0)
    """Seconds for each of pause, commit, resume and probe."""
    probe_tolerance: float = Field(1e-3, gt=0)
    """Mean difference allowed between engine and learner over the probe's log-probs, in nats, for float32 (bfloat16: 100 times it)."""
