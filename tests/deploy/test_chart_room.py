"""The pools of every example find room on the pods that it asks for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from services import placement
from services.config import parse_recipe
from tests.deploy.chart import CHART, CI_VALUES, Object, of_kind, ray_clusters, render

pytestmark = pytest.mark.deploy

OWN = [path for path in CI_VALUES if not path.stem.startswith("existing")]


def _nodes(cluster: Object) -> Iterator[dict[str, float]]:
    """What each pod offers to Ray, at most, as the operator tells it."""
    for group in (cluster["headGroupSpec"], *cluster.get("workerGroupSpecs", ())):
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        offers = {"CPU": limits["cpu"], "GPU": limits.get("nvidia.com/gpu", 0)} | group.get("resources", {})
        for _ in range(group.get("maxReplicas", 1)):
            yield {name: float(amount) for name, amount in offers.items()}


def _without_room(*values: Path | dict[str, Any], recipe: dict[str, Any]) -> list[placement.Ask]:
    clusters = [spec for found, spec in ray_clusters(render(*values)) if found["kind"] != "RayService"]
    (nodes,) = (list(_nodes(spec)) for spec in clusters)
    return placement.unplaced(placement.asks(parse_recipe(recipe), gpu=any(node["GPU"] for node in nodes)), nodes)


@pytest.mark.parametrize("values", OWN, ids=lambda path: path.stem)
def test_an_example_offers_what_its_recipe_asks_for(values: Path) -> None:
    held = yaml.safe_load(values.read_text(encoding="utf-8"))["recipe"]
    assert _without_room(values, recipe=yaml.safe_load(held) if isinstance(held, str) else held) == []


def test_the_readmes_worker_groups_offer_what_its_recipe_asks_for() -> None:
    text = (CHART / "README.in.md").read_text(encoding="utf-8")
    example = yaml.safe_load(text.partition("```yaml\n")[2].partition("```")[0])
    base = yaml.safe_load((CHART / "ci" / "one-gpu-values.yaml").read_text(encoding="utf-8"))
    alone = {"run": base["recipe"]["run"], "policy": base["recipe"]["policy"], "prompts": base["recipe"]["prompts"]}
    recipe = alone | example["recipe"]
    values = {"image": base["image"], "recipe": recipe, "training": example["training"]}
    assert of_kind(render(values), "RayJob")
    assert _without_room(values, recipe=recipe) == []
