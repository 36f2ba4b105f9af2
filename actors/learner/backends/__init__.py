"""Learner backends. `build` is the one factory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from actors.learner.backends.base import Backend
from actors.learner.backends.wire import Wire
from actors.learner.config import DeepSpeedConfig, Fsdp2Config, LearnerConfig
from actors.learner.lora import attach
from actors.modeling.scoring import Scorer

__all__ = ["Backend", "build"]


def build(model: Any, config: LearnerConfig, *, dtype: str, device: torch.device) -> Backend:
    """The backend a config describes, around a whole model on the CPU; all ranks call it together.

    `dtype` is that of computation and of the wire; master weights, reductions and optimizer state stay float32.
    """
    model.float()
    if config.lora is not None:
        attach(model, config.lora)
    if config.activation_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.train()  # transformers recomputes in training mode only; without dropout nothing else changes
    if config.compile:
        for layer in model.get_decoder().layers:
            layer.compile()
    wire = Wire(model, getattr(torch, dtype))
    return _BACKENDS[type(config.backend)](Scorer(model), wire, config, device)


def _fsdp2(scorer: Scorer, wire: Wire, config: LearnerConfig, device: torch.device) -> Backend:
    from actors.learner.backends.fsdp2 import Fsdp2Backend

    return Fsdp2Backend(scorer, wire, config, device=device)


def _deepspeed(scorer: Scorer, wire: Wire, config: LearnerConfig, device: torch.device) -> Backend:
    from actors.learner.backends.deepspeed import DeepSpeedBackend

    return DeepSpeedBackend(scorer, wire, config, device=device)


_BACKENDS: dict[type, Callable[[Scorer, Wire, LearnerConfig, torch.device], Backend]] = {Fsdp2Config: _fsdp2, DeepSpeedConfig: _deepspeed}
