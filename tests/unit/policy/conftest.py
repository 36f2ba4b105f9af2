from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from actors.weights.manifest import Manifest
from actors.weights.version import version_path, write_version
from tests.tiny_model import build_model, save_tokenizer

Write = Callable[..., Manifest]


@pytest.fixture(scope="session")
def tokenizer_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    return tmp_path / "run" / "policies"


@pytest.fixture
def write(policies: Path, tokenizer_dir: Path) -> Write:
    """write(step, seed=...) puts a version with the seed's weights where the run keeps it."""

    def write(step: int, seed: int = 0) -> Manifest:
        model = build_model(seed)
        return write_version(
            version_path(policies, step),
            state_dict=model.state_dict(),
            model_config=model.config,
            tokenizer_dir=tokenizer_dir,
            step=step,
            parent=step - 1 if step else None,
            run="a-run",
        )

    return write
