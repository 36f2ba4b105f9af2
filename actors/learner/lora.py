"""Low-rank adapters on a policy, by peft; what is published is merged (see `backends.wire`)."""

from __future__ import annotations

from typing import Any

from actors.errors import ConfigError
from actors.learner.config import LoraConfig


def attach(model: Any, config: LoraConfig) -> None:
    """Put trainable float32 adapters into `model` and freeze everything else. At first they change nothing (one factor is zero)."""
    import peft

    targets = config.targets if isinstance(config.targets, str) else list(config.targets)
    adapters = peft.LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=targets, lora_dropout=0.0, bias="none")
    try:
        peft.inject_adapter_in_model(adapters, model)
    except ValueError as error:
        raise ConfigError(f"learner.lora.targets: {error}") from None
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".lora_" in name)
