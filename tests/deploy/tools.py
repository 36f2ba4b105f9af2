"""The programs that the tests of what is deployed run."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def tool(name: str) -> str:
    """Path of a program that `make test-deploy` puts in place; the test fails where it is missing."""
    places = os.pathsep.join([str(ROOT / ".tools" / "bin"), os.environ.get("PATH", "")])
    found = shutil.which(name, path=places)
    if found is None:
        pytest.fail(f"{name} is not installed: run make test-deploy")
    return found
