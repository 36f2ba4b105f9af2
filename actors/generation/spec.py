"""What an engine is made of, and what it is asked for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from actors.generation.config import GenerationConfig


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """What one engine is made of."""

    index: int
    model: str  # directory in Hugging Face's layout
    dtype: str
    transport: str  # "gloo" or "nccl"
    max_model_len: int
    gpu: bool
    config: GenerationConfig


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the responses to one prompt are drawn. Temperature 0 is greedy."""

    samples: int
    temperature: float
    top_p: float
    top_k: int
    max_tokens: int

    @classmethod
    def of(cls, config: GenerationConfig) -> Sampling:
        """The recipe's own sampling."""
        return cls(config.group_size, config.temperature, config.top_p, config.top_k, config.max_tokens)


def sample_seed(seed: int, ordinal: int, sample: int) -> int:
    """The seed of one response: a pure function of the run's seed and the response's place in the run; 63 bits."""
    return int(np.random.SeedSequence((seed, ordinal, sample)).generate_state(1, np.uint64)[0] >> 1)
