"""The models that are measured, their floating-point operations, and what others published for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

PEAK_FLOPS = {"H100 PCIe": 756e12, "H100 NVL": 835e12, "H100": 989.4e12, "H200": 989.4e12, "A100": 312e12}
"""Dense bfloat16 operations per second by the GPU's name, as their makers state them; the first name that fits counts."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A decoder of the Qwen family; random weights."""

    family: str  # "qwen2" or "qwen3"
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    intermediate: int
    vocabulary: int
    tied: bool  # the embedding is the output layer

    def build(self, *, seed: int) -> Any:
        """The model on the CPU in float32: a function of the seed."""
        from transformers import AutoConfig, AutoModelForCausalLM

        torch.manual_seed(seed)
        config = AutoConfig.for_model(
            self.family,
            vocab_size=self.vocabulary,
            hidden_size=self.hidden,
            intermediate_size=self.intermediate,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            head_dim=self.head_size,
            max_position_embeddings=131_072,
            tie_word_embeddings=self.tied,
            use_cache=False,
        )
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32)

    @property
    def layer_parameters(self) -> int:
        """Weights of all decoder layers' matrices."""
        attention = self.hidden * self.head_size * (2 * self.heads + 2 * self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    def update_flops(self, pairs: Sequence[tuple[int, int]]) -> float:
        """Operations of one forward and backward pass over rows of (prompt, response) tokens; recomputation is not counted.

        Matrices: 6 x weights x tokens; the output layer only for the tokens it scores, those of responses. Attention: each layer's two
        products take 2 x heads x head size x L^2 operations forward for a row of L tokens under a causal mask, and twice that backward.
        For rows that are all response this is what prime-rl counts for Qwen3-0.6B, where its two simplifications, no causal mask and
        hidden / heads (64) in place of the head size (128), cancel.
        """
        tokens = sum(prompt + response for prompt, response in pairs)
        scored = sum(response for _, response in pairs)
        squares = sum((prompt + response) ** 2 for prompt, response in pairs)
        matrices = 6 * self.layer_parameters * tokens + 6 * self.vocabulary * self.hidden * scored
        return float(matrices + 6 * self.layers * self.heads * self.head_size * squares)


SHAPES = {
    "tiny": Shape("qwen2", 64, layers=2, heads=2, kv_heads=1, head_size=32, intermediate=128, vocabulary=512, tied=True),
    "30m": Shape("qwen2", 512, layers=8, heads=8, kv_heads=4, head_size=64, intermediate=1_536, vocabulary=4_096, tied=False),
    "qwen3-0.6b": Shape("qwen3", 1_024, layers=28, heads=16, kv_heads=8, head_size=128, intermediate=3_072, vocabulary=151_936, tied=True),
}


@dataclass(frozen=True, slots=True)
class Published:
    """A figure that someone else published for one H100."""

    source: str
    mfu: float
    tokens_per_s: float
    peak_memory_gib: float


PUBLISHED: dict[tuple[str, int | None], Published] = {
    ("qwen3-0.6b", 16_384): Published("prime-rl", 0.111, 11_900, 12.5),
    ("qwen3-0.6b", 65_536): Published("prime-rl", 0.268, 10_150, 19.6),
}
"""By shape and tokens of a row: prime-rl's benchmarks of 1 February 2026. One H100 80GB HBM3, RL, full fine-tuning, recomputation,
FlashAttention 3, torch.compile, two micro-batches of one whole row each to an update."""


def peak_flops(device: str) -> float | None:
    """Dense bfloat16 peak of a GPU by its name; None where it is not known."""
    return next((flops for name, flops in PEAK_FLOPS.items() if all(word in device for word in name.split())), None)
