"""Low-rank adapters on a policy, by peft; what is published is merged (see `backends.wire`)."""

from __future__ import annotations

from typing import Any

from torch import nn

from actors.errors import ConfigError
from actors.learner.config import LoraConfig


def attach(model: Any, config: LoraConfig) -> None:
    """Put trainable float32 adapters into `model` and freeze everything else. At first they change nothing (one factor is zero)."""
    import peft

    targets = config.targets if isinstance(config.targets, str) else list(config.targets)
    adapters = peft.LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=targets, lora_dropout=0.0, bias="none")
    ends = {id(model.get_input_embeddings()), id(model.get_output_embeddings())}
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and id(module) not in ends]
    for target in () if config.targets == "all-linear" else config.targets:
        if not any(name == target or name.endswith(f".{target}") for name in linear):
            known = sorted({name.rpartition(".")[2] for name in linear})
            raise ConfigError(
                f"learner.lora.targets: no linear layer between the embeddings is called {target!r}; there are {', '.join(known)}"
            )
    peft.inject_adapter_in_model(adapters, model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".lora_" in name)
