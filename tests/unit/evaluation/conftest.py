from __future__ import annotations

from pathlib import Path

import pytest

from services.config import Recipe, parse_recipe
from tests.tiny_model import build_config, save_tokenizer


@pytest.fixture(scope="session")
def version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A version's directory, as far as an exam reads it; one token a byte, 4,096 positions."""
    directory = save_tokenizer(tmp_path_factory.mktemp("version"))
    build_config().save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    """A run on digits that holds 8 problems out."""
    return parse_recipe(
        {
            "run": {"name": "a-run", "steps": 20, "prompts_per_step": 4},
            "prompts": {"source": {"type": "digits", "task": "reverse", "digits": 6}, "max_tokens": 32, "held_out": 8},
            "generation": {"max_tokens": 16, "group_size": 4},
            "learner": {"updates_per_step": 2},
        }
    )
