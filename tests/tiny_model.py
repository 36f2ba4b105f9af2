"""Random tiny policies, as small as the engines run: what a test needs of a model."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

from actors.modeling.config import TinyPolicy, WarmupConfig
from actors.modeling.tiny import make_model, make_tokenizer


def build_model(seed: int = 0) -> Qwen2ForCausalLM:
    """Random float32 weights, a function of the seed."""
    return make_model(TinyPolicy(max_positions=4096, warmup=WarmupConfig(seed=seed))).eval()


def build_config() -> Qwen2Config:
    """Its configuration."""
    return build_model().config


def save_experts(directory: Path) -> Path:
    """A mixture of eight experts, two at work, with its tokenizer."""
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(directory)
    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        moe_intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=32,
        num_experts=8,
        num_experts_per_tok=2,
        max_position_embeddings=4096,
        initializer_range=0.3,  # experts tell apart what they are given
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    Qwen3MoeForCausalLM(config).save_pretrained(directory)
    return directory


def save_tokenizer(directory: Path) -> Path:
    """The tokenizer's files, in their own directory."""
    make_tokenizer().save_pretrained(directory)
    return directory
