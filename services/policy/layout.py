"""What an engine takes from a version besides the numbers: two versions that agree in it can follow one another in one engine.

An engine that is running keeps its tokenizer, its chat template and the shapes of its weights when other weights are put into it. A version
made for others would load without an error and answer nonsense.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.errors import PolicyVersionError
from actors.weights.manifest import Manifest
from services.config import differing_keys

CONFIG, INDEX = "config.json", "model.safetensors.index.json"
MAY_DIFFER = frozenset({"_name_or_path", "transformers_version"})
"""Keys of config.json that say where a model came from, not what it is."""

Tensor = tuple[str, tuple[int, ...]]
"""(number type by safetensors' name, shape)."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What must be the same in every version that one engine holds in its life."""

    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any]  # config.json without MAY_DIFFER
    companions: Mapping[str, str]  # file name -> SHA-256: tokenizer, chat template, defaults of generation


def read_layout(directory: Path, manifest: Manifest) -> Layout:
    """Of a version whose files have been verified; reads the headers of its weights. PolicyVersionError for files that are none."""
    weights = set(manifest.weight_files)
    companions = {name: entry.sha256 for name, entry in manifest.files.items() if name not in {*weights, CONFIG, INDEX}}
    return Layout(_tensors(directory, manifest), _config(directory / CONFIG), companions)


def check_alike(layout: Layout, held: Layout, place: Path, holder: Path) -> None:
    """PolicyVersionError, naming what differs, unless an engine that holds `holder` can take the version at `place`."""
    for name in sorted(layout.companions.keys() | held.companions.keys()):
        if layout.companions.get(name) != held.companions.get(name):
            raise PolicyVersionError(f"{place / name}: not as in {holder.name}, which the engine holds: {_presence(layout, held, name)}")
    if keys := differing_keys(layout.config, held.config):
        ours, theirs = (_at(config, keys[0]) for config in (layout.config, held.config))
        raise PolicyVersionError(f"{place / CONFIG}: {keys[0]} is {ours!r}, the engine holds {holder.name} with {theirs!r}")
    for name in sorted(layout.tensors.keys() | held.tensors.keys()):
        if (ours := layout.tensors.get(name)) != (theirs := held.tensors.get(name)):
            raise PolicyVersionError(f"{place}: {name} is {_shown(ours)}, the engine holds {holder.name} with {_shown(theirs)}")


def _tensors(directory: Path, manifest: Manifest) -> dict[str, Tensor]:
    from safetensors import SafetensorError, safe_open

    tensors: dict[str, Tensor] = {}
    for name in manifest.weight_files:
        try:
            with safe_open(directory / name, framework="numpy") as file:
                for key in file.keys():  # noqa: SIM118 - not a mapping
                    header = file.get_slice(key)
                    tensors[key] = header.get_dtype(), tuple(header.get_shape())
        except SafetensorError as error:
            raise PolicyVersionError(f"{directory / name}: {error}") from None
    return tensors


def _config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_bytes())
    except ValueError as error:
        raise PolicyVersionError(f"{path}: {error}") from None
    if not isinstance(config, dict):
        raise PolicyVersionError(f"{path}: not an object")
    return {key: value for key, value in config.items() if key not in MAY_DIFFER}


def _presence(layout: Layout, held: Layout, name: str) -> str:
    if name not in layout.companions:
        return "it is missing"
    return "its content differs" if name in held.companions else "it is new"


def _at(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = config.get(part) if isinstance(config, Mapping) else None
    return config


def _shown(tensor: Tensor | None) -> str:
    return "missing" if tensor is None else f"{tensor[0]} {list(tensor[1])}"
