from __future__ import annotations

from pathlib import Path

import pytest

from actors.errors import ConfigError
from services.bench.generation import PROMPT_TOKENS, Settings, save_model


def test_lengths_span_the_range_and_are_the_same_every_time() -> None:
    lengths = Settings().lengths
    assert (min(lengths), max(lengths), len(lengths)) == (16, 256, 64)
    assert lengths == Settings().lengths != sorted(lengths)
    assert [prompt.token_ids.tolist() for prompt in Settings().prompts] == [prompt.token_ids.tolist() for prompt in Settings().prompts]


def test_no_token_that_the_model_can_sample_ends_a_response(tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoTokenizer

    save_model(Settings(model="tiny"), tmp_path)
    config, tokenizer = AutoConfig.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert config.eos_token_id is None
    assert tokenizer.eos_token_id == config.vocab_size
    assert config.max_position_embeddings >= PROMPT_TOKENS + Settings().longest


def test_a_range_upside_down_is_refused() -> None:
    with pytest.raises(ConfigError, match="--shortest"):
        Settings(shortest=5, longest=4)
