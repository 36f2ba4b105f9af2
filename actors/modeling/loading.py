"""Loading a policy from a directory in Hugging Face's layout, and the checks that need no framework."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from actors.errors import ModelError

CPU_HEAD_SIZES = frozenset({32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512})
"""Head sizes that vLLM's CPU attention has kernels for; others crash it at the start."""


def head_size(config: dict[str, Any]) -> int:
    """Attention head size of a Hugging Face config.json."""
    if size := config.get("head_dim"):
        return int(size)
    return int(config["hidden_size"]) // int(config["num_attention_heads"])


def check_model(path: str, *, gpu: bool) -> dict[str, Any]:
    """Refuse a directory that cannot serve as a policy, before anything starts. Returns its config.json."""
    directory = Path(path)
    config_file = directory / "config.json"
    if not config_file.is_file():
        raise ModelError(f"policy.path: no config.json in {directory}")
    if not any(directory.glob("*.safetensors")):
        raise ModelError(f"policy.path: no safetensors weights in {directory}")
    if not any((directory / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise ModelError(f"policy.path: no tokenizer in {directory}")
    try:
        config: dict[str, Any] = json.loads(config_file.read_text())
        size = head_size(config)
    except (ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError) as error:
        raise ModelError(f"policy.path: {config_file} cannot be read: {error!r}") from None
    check_head_size(size, gpu=gpu)
    return config


def check_head_size(size: int, *, gpu: bool) -> None:
    """Refuse an attention head size that the engine has no kernel for."""
    if not gpu and size not in CPU_HEAD_SIZES:
        raise ModelError(f"policy: attention heads of size {size}; the engine runs {sorted(CPU_HEAD_SIZES)} on a CPU")


def load_model(path: str, *, dtype: str = "float32") -> Any:
    """A causal language model on the CPU, in evaluation order (no dropout), its tied weights tied."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, dtype), trust_remote_code=False, attn_implementation="sdpa")
    return model.eval()


def load_tokenizer(path: str) -> Any:
    """The policy's tokenizer."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(path, trust_remote_code=False)
