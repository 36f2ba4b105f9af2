"""What sets recipes apart: which settings differ, and the short label that says so."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

APART = re.compile(
    r"run\.(name|root|seed|storage|export_every|keep_policies|record_share)$"
    r"|learner\.(ranks|micro_batch_tokens|activation_checkpointing|compile|checkpoint_every|keep_checkpoints|max_restarts)$"
    r"|(evaluation|health|serve|cluster|telemetry|weights)\."
    r"|generation\.(max_running|kv_cache_mib|gpu_memory_share|eager|start_timeout_s)$|reference\.batch_tokens$"
    r"|[a-z]+\.(cpus|gpus|actors|max_actors|resources|threads)(\.|$)"
)
"""Settings that do not change what is learned: where a run lies, what it runs on, what it keeps, how it is watched and served."""

Tree = Mapping[str, Any]
OBJECTIVE = "learner.objective"
CLIP = {f"{OBJECTIVE}.{name}" for name in ("clip_low", "clip_high", "bounds")}
"""Together the interval of a ratio that is not clipped, and told as that."""


def key_of(recipe: Tree) -> str:
    """Equal for recipes that differ in nothing but their seed and what `APART` names."""
    return json.dumps(sorted((path, value) for path, value in _leaves(recipe) if not APART.match(path)), default=str)


def differing(recipes: Sequence[Tree]) -> dict[str, list[Any]]:
    """{dotted path: its value in each recipe, None where it has none} of the settings in which some of them differ, the objective first."""
    flat = [dict(_leaves(recipe)) for recipe in recipes]
    paths = [path for path in dict.fromkeys(path for leaves in flat for path in leaves) if not APART.match(path)]
    values = {path: [leaves.get(path) for leaves in flat] for path in sorted(paths, key=_rank)}
    return {path: held for path, held in values.items() if len({word(value) for value in held}) > 1}


def labels(recipes: Sequence[Tree]) -> list[str]:
    """A label for each of several different recipes: the types in which they differ, then the settings.

    A setting is compared among recipes of the same type (GMPO's clip with GMPO's), and the value that more of those have than any other
    goes unsaid.
    """
    settings = differing(recipes)
    names = short(list(settings))
    said: list[list[str]] = [[] for _ in recipes]
    usual: list[list[str]] = [[] for _ in recipes]
    for path, values in settings.items():
        kinds = [_kinds(recipe, path) for recipe in recipes]
        for at, value in enumerate(values):
            peers = Counter(word(held) for held, kind in zip(values, kinds, strict=True) if kind == kinds[at])
            if path == f"{OBJECTIVE}.type":
                said[at].append(word(value))
            elif len(peers) > 1:
                text = _interval(recipes[at]) if path in CLIP else f"{_absent(recipes[at], path) or names[path]}={word(value)}"
                (usual if _commonest(word(value), peers) else said)[at].append(text)
    return [", ".join(dict.fromkeys(told or others)) for told, others in zip(said, usual, strict=True)]


def short(paths: Sequence[str]) -> dict[str, str]:
    """Each path's shortest ending that none of the others has; a type is named by its section."""
    plain = {path: path.removesuffix(".type") for path in paths}
    names = {}
    for path, whole in plain.items():
        parts = whole.split(".")
        endings = [".".join(parts[-count:]) for count in range(1, len(parts) + 1)]
        others = [f".{other}" for given, other in plain.items() if given != path]
        names[path] = next((ending for ending in endings if not any(other.endswith(f".{ending}") for other in others)), whole)
    return names


def word(value: Any) -> str:
    """A setting's value as a person writes it."""
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _interval(recipe: Tree) -> str:
    """The ratios that an objective does not clip: "clip 0.8 to 1.2", "clip e^\u00b10.4"."""
    objective = recipe["learner"]["objective"]
    low, high = (objective.get(name, 0.0) for name in ("clip_low", "clip_high"))
    if objective.get("bounds", "log" if objective["type"] in {"gmpo", "pmpo"} else "ratio") == "ratio":
        return f"clip {1 - low:.6g} to {1 + high:.6g}"
    return f"clip e^\u00b1{low:g}" if low == high else f"clip e^{-low:g} to e^{high:g}"


def _commonest(value: str, peers: Counter[str]) -> bool:
    (first, count), *others = peers.most_common(2)
    return value == first and all(count > other for _, other in others)


def _leaves(tree: Tree, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        elif value is not None:  # an absent section and an absent setting read alike
            yield f"{prefix}{key}", value


def _kinds(recipe: Tree, path: str) -> tuple[str, ...]:
    """The types of the sections around a setting; a type's own word is no setting inside it."""
    *sections, last = path.split(".")
    kinds, node = [], recipe
    for depth, section in enumerate(sections, start=1):
        inner = node.get(section)
        if not isinstance(inner, Mapping):
            break
        node = inner
        if "type" in node and (depth < len(sections) or last != "type"):
            kinds.append(str(node["type"]))
    return tuple(kinds)


def _absent(recipe: Tree, path: str) -> str | None:
    """The section around a setting that a recipe does without."""
    node = recipe
    for section in path.split(".")[:-1]:
        inner = node.get(section)
        if not isinstance(inner, Mapping):
            return section
        node = inner
    return None


def _rank(path: str) -> int:
    """The objective first, then its settings, then all else in the recipe's order."""
    return 0 if path == f"{OBJECTIVE}.type" else 1 if path.startswith(f"{OBJECTIVE}.") else 2
