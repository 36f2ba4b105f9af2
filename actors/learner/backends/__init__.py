"""Learner backends. `build` is the one factory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

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
        _drop_nothing(model)
        model.train()  # transformers recomputes in training mode only
    if config.compile:
        for layer in model.get_decoder().layers:
            layer.compile()
    wire = Wire(model, getattr(torch, dtype))
    return _BACKENDS[type(config.backend)](Scorer(model), wire, config, device)


def _drop_nothing(model: Any) -> None:
    """Turn off dropout of every kind: the policy that is trained is the one that answers."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if "drop" in name and isinstance(value, float):
                setattr(module, name, 0.0)


def _fsdp2(scorer: Scorer, wire: Wire, config: LearnerConfig, device: torch.device) -> Backend:
    from actors.learner.backends.fsdp2 import Fsdp2Backend

    return Fsdp2Backend(scorer, wire, config, device=device)


def _deepspeed(scorer: Scorer, wire: Wire, config: LearnerConfig, device: torch.device) -> Backend:
    from actors.learner.backends.deepspeed import DeepSpeedBackend

    return DeepSpeedBackend(scorer, wire, config, device=device)


_BACKENDS: dict[type, Callable[[Scorer, Wire, LearnerConfig, torch.device], Backend]] = {Fsdp2Config: _fsdp2, DeepSpeedConfig: _deepspeed}
