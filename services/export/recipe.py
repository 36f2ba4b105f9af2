"""A run's recipe as others may have it: all that says what was learned, and nothing of the machine it was learned on.

Sections are named one by one, so that a new one stays out until it is named here:

- left out: `cluster`, `serve`, `telemetry`, `health` and `evaluation.live` (addresses, projects, key files; none changes a weight),
  `run.root`, `run.storage` and every pool's `resources` (where a run lay and on which nodes);
- shortened to their last part: the paths and URLs of data files and of a model's directory, which can hold user names and passwords.

What is left is a recipe: `gmpo train recipe.yaml`, once the named files lie in the working directory.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from actors.modeling.config import PolicyConfig, PretrainedPolicy
from actors.storage import is_url
from services.config import Recipe, resolved

SECTIONS = ("run", "policy", "prompts", "generation", "reward", "reference", "replay", "learner", "weights", "evaluation")
_LEFT_OUT = re.compile(r"run\.(root|storage)|evaluation\.live|[a-z]+\.resources")
_HUB = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")
_FILES = re.compile(r"prompts\.(source|held_out_source)\.path")


def shareable(recipe: Recipe) -> dict[str, Any]:
    """The resolved tree without what belongs to the machine; a valid recipe."""
    tree = resolved(recipe)
    kept: dict[str, Any] = _kept({section: tree[section] for section in SECTIONS}, "")
    if isinstance(recipe.policy, PretrainedPolicy) and hub_id(recipe.policy) is None:
        kept["policy"] |= {"path": last_part(recipe.policy.path), "revision": None}
    return kept


def hub_id(policy: PolicyConfig) -> str | None:
    """The hub's name of the model that was trained, where it came from there and not from a directory."""
    if not isinstance(policy, PretrainedPolicy) or policy.revision is None or Path(policy.path).exists():
        return None
    return policy.path if _HUB.fullmatch(policy.path) else None


def last_part(place: str) -> str:
    """The name of a file or folder, without what leads to it."""
    path = place.partition("?")[0] if is_url(place) else place
    return path.rstrip("/").rpartition("/")[2]


def _kept(node: Any, path: str) -> Any:
    if _FILES.fullmatch(path):
        return [last_part(one) for one in node] if isinstance(node, list) else last_part(node)
    if not isinstance(node, Mapping):
        return node
    inner = {key: (f"{path}.{key}" if path else key, value) for key, value in node.items()}
    return {key: _kept(value, place) for key, (place, value) in inner.items() if not _LEFT_OUT.fullmatch(place)}
