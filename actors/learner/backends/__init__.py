"""Learner backends. `build` is the one factory."""

from __future__ import annotations

from typing import Any

import torch

from actors.learner.backends.base import Backend
from actors.learner.backends.fsdp2 import Fsdp2Backend
from actors.learner.config import AdamWConfig, BackendConfig

__all__ = ["Backend", "build"]


def build(model: Any, config: BackendConfig, optimizer: AdamWConfig, *, dtype: str, device: torch.device) -> Backend:
    """The backend a config object describes, around a whole model on the CPU; all ranks call it together."""
    return Fsdp2Backend(model, config, optimizer, dtype=dtype, device=device)
