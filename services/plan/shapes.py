"""A decoder's sizes, read from a config.json: parameters, keys and values of a token. Nothing is loaded.

Formulas hold for dense decoders of the Qwen2, Qwen3, Llama and Mistral families; `from_config` refuses others by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.errors import ModelError
from actors.learner.config import LoraConfig
from actors.modeling.config import TinyPolicy
from actors.modeling.loading import head_size

TINY_VOCABULARY = 258
"""Tokens of the tiny policy's tokenizer: bytes, the end and padding."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A dense decoder. Counts are of scalars, whatever type they are stored in."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    intermediate: int
    vocabulary: int
    tied: bool  # the embedding is the output layer
    qkv_bias: bool = False
    output_bias: bool = False  # of the attention's last matrix
    head_norms: bool = False  # of queries and keys
    max_positions: int | None = None  # longest sequence; None where the configuration does not say

    @property
    def matrices(self) -> dict[str, tuple[int, int]]:
        """(inputs, outputs) of a layer's matrices."""
        attention, keys = self.heads * self.head_size, self.kv_heads * self.head_size
        return {
            "q_proj": (self.hidden, attention),
            "k_proj": (self.hidden, keys),
            "v_proj": (self.hidden, keys),
            "o_proj": (attention, self.hidden),
            "gate_proj": (self.hidden, self.intermediate),
            "up_proj": (self.hidden, self.intermediate),
            "down_proj": (self.intermediate, self.hidden),
        }

    @property
    def layer(self) -> int:
        """Parameters of one decoder layer."""
        weights = sum(inputs * outputs for inputs, outputs in self.matrices.values())
        biases = self.qkv_bias * (self.heads + 2 * self.kv_heads) * self.head_size + self.output_bias * self.hidden
        return weights + biases + 2 * self.hidden + self.head_norms * 2 * self.head_size

    @property
    def embedding(self) -> int:
        """Parameters of the embedding, a model's largest tensor."""
        return self.vocabulary * self.hidden

    @property
    def ends(self) -> int:
        """Parameters outside the layers: embedding, output layer, last norm."""
        return self.embedding * (1 if self.tied else 2) + self.hidden

    @property
    def parameters(self) -> int:
        """All parameters, tied ones once."""
        return self.layers * self.layer + self.ends

    def adapters(self, config: LoraConfig) -> int:
        """Parameters of low-rank adapters on these layers."""
        adapted = (sizes for name, sizes in self.matrices.items() if config.targets == "all-linear" or name in config.targets)
        return self.layers * config.rank * sum(inputs + outputs for inputs, outputs in adapted)

    def divides_by(self, tensor_parallel: int) -> bool:
        """Whether so many GPUs can share the model: query heads are never cut, key-value heads are dealt out or held several times."""
        dealt = self.kv_heads % tensor_parallel == 0 or tensor_parallel % self.kv_heads == 0
        return dealt and self.heads % tensor_parallel == 0

    def kv_bytes(self, number_bytes: int, tensor_parallel: int = 1) -> int:
        """Bytes of one token's keys and values on one of the GPUs that share an engine; a head is never cut, but may be held twice."""
        return 2 * self.layers * -(-self.kv_heads // tensor_parallel) * self.head_size * number_bytes


FAMILIES = ("qwen2", "qwen3", "llama", "mistral")
"""Values of `model_type` for which the formulas here hold."""
NO_EXPERTS = "mixtures of experts are not planned"
"""Said wherever a model is unknown."""


def from_config(config: Mapping[str, Any], source: str) -> Shape:
    """The shape that a config.json describes; ModelError, naming `source`, where it is of no family known here or lacks a size."""
    family = config.get("model_type")
    if family not in FAMILIES:
        raise ModelError(f"{source}: model_type {family!r}; sizes are known of {', '.join(FAMILIES)}; {NO_EXPERTS}")
    bias = family in {"llama", "qwen3"} and bool(config.get("attention_bias"))
    try:
        return Shape(
            hidden=_count(config, "hidden_size"),
            layers=_count(config, "num_hidden_layers"),
            heads=_count(config, "num_attention_heads"),
            kv_heads=_count(config, "num_key_value_heads" if config.get("num_key_value_heads") else "num_attention_heads"),
            head_size=head_size(dict(config)),
            intermediate=_count(config, "intermediate_size"),
            vocabulary=_count(config, "vocab_size"),
            tied=bool(config.get("tie_word_embeddings", False)),
            qkv_bias=bias or family == "qwen2",
            output_bias=bias,
            head_norms=family == "qwen3",
            max_positions=config.get("max_position_embeddings"),
        )
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ModelError(f"{source}: not the configuration of a decoder: {error!r}") from None


def _count(config: Mapping[str, Any], key: str) -> int:
    value = config[key]
    if not isinstance(value, int) or value <= 0:
        raise ValueError(f"{key} is {value!r}")
    return value


def of_directory(directory: Path) -> Shape:
    """The shape of a model in Hugging Face's layout; ModelError where there is none to read."""
    file = directory / "config.json"
    try:
        config = json.loads(file.read_bytes())
    except OSError as error:
        raise ModelError(f"{file}: {error.strerror}") from None
    except ValueError:
        raise ModelError(f"{file}: not JSON") from None
    if not isinstance(config, dict):
        raise ModelError(f"{file}: not an object")
    return from_config(config, str(file))


def of_tiny(policy: TinyPolicy) -> Shape:
    """The shape of a policy made on the spot."""
    return Shape(
        hidden=policy.hidden_size,
        layers=policy.layers,
        heads=policy.heads,
        kv_heads=policy.kv_heads,
        head_size=policy.hidden_size // policy.heads,
        intermediate=policy.intermediate_size,
        vocabulary=TINY_VOCABULARY,
        tied=policy.tied,
        qkv_bias=True,
        max_positions=policy.max_positions,
    )


def _qwen2(hidden: int, layers: int, heads: int, kv_heads: int, intermediate: int, vocabulary: int, *, tied: bool, longest: int) -> Shape:
    return Shape(hidden, layers, heads, kv_heads, hidden // heads, intermediate, vocabulary, tied, qkv_bias=True, max_positions=longest)


def _qwen3(hidden: int, layers: int, heads: int, intermediate: int, *, tied: bool) -> Shape:
    return Shape(hidden, layers, heads, 8, 128, intermediate, 151_936, tied, head_norms=True, max_positions=40_960)


PUBLISHED = {
    "Qwen/Qwen2.5-Math-1.5B": _qwen2(1_536, 28, 12, 2, 8_960, 151_936, tied=True, longest=4_096),
    "Qwen/Qwen2.5-Math-7B": _qwen2(3_584, 28, 28, 4, 18_944, 152_064, tied=False, longest=4_096),
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": _qwen2(1_536, 28, 12, 2, 8_960, 151_936, tied=False, longest=131_072),
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B": _qwen2(3_584, 28, 28, 4, 18_944, 152_064, tied=False, longest=131_072),
    "Qwen/Qwen2.5-0.5B": _qwen2(896, 24, 14, 2, 4_864, 151_936, tied=True, longest=32_768),
    "Qwen/Qwen3-0.6B": _qwen3(1_024, 28, 16, 3_072, tied=True),
    "Qwen/Qwen3-1.7B": _qwen3(2_048, 28, 16, 6_144, tied=True),
    "Qwen/Qwen3-4B": _qwen3(2_560, 36, 32, 9_728, tied=True),
    "Qwen/Qwen3-8B": _qwen3(4_096, 36, 32, 12_288, tied=False),
}
"""By hub id, from each model's config.json."""


def published(name: str) -> tuple[str, Shape] | None:
    """(hub id, shape) of the published model whose name is the last part of this name or path, in any case; None if there is none."""
    wanted = name.rstrip("/").rpartition("/")[2].lower()
    return next(((key, shape) for key, shape in PUBLISHED.items() if key.lower().rpartition("/")[2] == wanted), None)
