"""A random tiny policy, as small as the engines run: what a test needs of a model."""

from __future__ import annotations

from pathlib import Path

from transformers import Qwen2Config, Qwen2ForCausalLM

from actors.modeling.config import TinyPolicy, WarmupConfig
from actors.modeling.tiny import make_model, make_tokenizer


def build_model(seed: int = 0) -> Qwen2ForCausalLM:
    """Random float32 weights, a function of the seed."""
    return make_model(TinyPolicy(max_positions=4096, warmup=WarmupConfig(seed=seed))).eval()


def build_config() -> Qwen2Config:
    """Its configuration."""
    return build_model().config


def save_tokenizer(directory: Path) -> Path:
    """The tokenizer's files, in their own directory."""
    make_tokenizer().save_pretrained(directory)
    return directory
