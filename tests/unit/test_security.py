"""SECURITY.md names the least versions that are safe: no lock and no installation goes below."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
FLOORS = dict(re.findall(r"^\| ([a-z0-9-]+) \| ([0-9.]+) \|", (ROOT / "SECURITY.md").read_text(), flags=re.MULTILINE))
LOCKED = dict(
    re.findall(r"^([A-Za-z0-9_.-]+)==([0-9.]+)", (ROOT / "deploy" / "requirements-cpu.txt").read_text().lower(), flags=re.MULTILINE)
)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ASKED = {
    requirement.name: requirement
    for line in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["gpu"]]
    for requirement in [Requirement(line)]
}


def test_there_are_floors() -> None:
    assert {"ray", "torch", "vllm"} <= FLOORS.keys()


@pytest.mark.parametrize("package", FLOORS)
def test_no_package_is_locked_below_its_floor(package: str) -> None:
    locked = LOCKED.get(package) or LOCKED[f"{package}-cpu"]
    assert Version(locked) >= Version(FLOORS[package])


@pytest.mark.parametrize("package", sorted(FLOORS.keys() & ASKED.keys()))
def test_no_installation_can_take_less_than_the_floor(package: str) -> None:
    least = min(Version(bound.version) for bound in ASKED[package].specifier if bound.operator in ("==", ">="))
    assert least >= Version(FLOORS[package])
