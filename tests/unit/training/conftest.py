from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run directories of the test go here; what the surrounding shell says of clusters does not count."""
    monkeypatch.setenv("GMPO_RUN_ROOT", str(tmp_path / "runs"))
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_JOB_CONFIG_JSON_ENV_VAR"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "runs"
