from __future__ import annotations

from pathlib import Path

import yaml

from services.config import Recipe, differing_keys, load_recipe, resolved
from services.export.recipe import shareable
from tests.unit.export.conftest import RECIPE
from tests.unit.recipes import tiny_recipe


def reread(recipe: Recipe, tmp_path: Path) -> Recipe:
    """What a reader makes of the recipe that is shared."""
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(shareable(recipe)))
    return load_recipe(path)


def test_the_shared_recipe_is_the_run_s_own_but_for_the_machine(tmp_path: Path) -> None:
    ours, theirs = tiny_recipe(*RECIPE), reread(tiny_recipe(*RECIPE), tmp_path)
    differing = differing_keys(resolved(ours), resolved(theirs))
    assert sorted(differing) == ["cluster.address", "learner.resources.someones-node", "run.root", "serve.keys_file", "telemetry.trackers"]


def test_paths_and_urls_are_shortened_to_a_file_s_name(tmp_path: Path) -> None:
    model, data = tmp_path / "models" / "Qwen2.5-0.5B", "s3://id:secret@bucket/sets/train.parquet?region=x"
    model.mkdir(parents=True)
    recipe = tiny_recipe(
        f"policy={{type: pretrained, path: {model}, revision: abc}}",
        f"prompts.source={{type: file, path: ['{data}', /home/someone/more.jsonl]}}",
        "prompts.held_out_source={type: file, path: /home/someone/test.jsonl}",
    )
    again = resolved(reread(recipe, tmp_path))
    assert again["policy"] | {"path": "Qwen2.5-0.5B", "revision": None} == again["policy"]
    assert again["prompts"]["source"]["path"] == ["train.parquet", "more.jsonl"]
    assert again["prompts"]["held_out_source"]["path"] == "test.jsonl"


def test_a_model_of_the_hub_keeps_its_name_and_revision(tmp_path: Path) -> None:
    recipe = tiny_recipe("policy={type: pretrained, path: Qwen/Qwen2.5-Math-7B, revision: abc}")
    assert reread(recipe, tmp_path).policy == recipe.policy


def test_a_new_section_stays_out_of_it() -> None:
    sections = {"run", "policy", "prompts", "generation", "reward", "reference", "replay", "learner", "weights", "evaluation"}
    assert shareable(tiny_recipe()).keys() == sections
