from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from actors.weights.manifest import Manifest
from services.config import Recipe
from services.export import words
from services.export.card import Story, license_of, write_card
from services.export.origin import origin_of
from tests.unit.recipes import tiny_recipe

HUB = (
    "policy={type: pretrained, path: Qwen/Qwen2.5-Math-7B, revision: abc}",
    f"prompts.source={{type: hub, id: 'openai/gsm8k:main@train', revision: {'a' * 40}}}",
    "prompts.template=qwen_math",
    "prompts.task=gsm8k",
)


def card(recipe: Recipe, *, prompt: str = "{question}", repo_id: str | None = None) -> tuple[dict[str, Any], str]:
    """(metadata, page) of a version of which nothing was measured."""
    origin = origin_of(Manifest(1, 3, 0, datetime(2026, 1, 1, tzinfo=UTC), "a-run", "a" * 64, {}))
    text = write_card(
        Story(recipe, origin, prompt, held_out=(), scores=(), prompts=None, figures=(), best_by=None, repo_id=repo_id),
    )
    _, front, page = text.split("---\n", 2)
    return yaml.safe_load(front), page


def with_model_card(directory: Path, front: str) -> Recipe:
    """A recipe that trains the model in a directory whose own card begins so."""
    directory.mkdir(exist_ok=True)
    (directory / "README.md").write_text(f"---\n{front}\n---\n# A model\n")
    return tiny_recipe(f"policy={{type: pretrained, path: {directory}}}")


def test_base_model_and_data_sets_are_named_where_the_hub_has_them() -> None:
    said, page = card(tiny_recipe(*HUB), prompt="<|user|>\n{question}")
    assert (said["base_model"], said["base_model_relation"], said["datasets"]) == ("Qwen/Qwen2.5-Math-7B", "finetune", ["openai/gsm8k"])
    assert "prompt = '<|user|>\\n{question}'.replace(" in page and "`/v1/completions` with the prompt above" in page


def test_a_licence_is_passed_on_and_never_made_up(tmp_path: Path) -> None:
    said, page = card(with_model_card(tmp_path / "model", "license: other\nlicense_name: mine\nlicense_link: LICENSE"))
    assert [said[key] for key in ("license", "license_name", "license_link")] == ["other", "mine", "LICENSE"]
    assert "**Licence:** other, by the card of the model it was trained from." in page
    for front in ("language: en", "license: [1]", "a: [", "- list"):
        assert license_of(with_model_card(tmp_path / "model", front).policy) == {}
    assert "license" not in card(tiny_recipe(*HUB))[0]


def test_a_model_s_directory_is_named_without_what_leads_to_it(tmp_path: Path) -> None:
    said, page = card(with_model_card(tmp_path / "model", "license: mit"))
    assert "base_model" not in said and "`model`, a model in a local directory" in page and str(tmp_path) not in page
    assert "To train it again, with the model's directory in the working directory:" in page


def test_the_card_names_where_it_will_be_found() -> None:
    assert 'place = "me/mine"\n' in card(tiny_recipe(), repo_id="me/mine")[1]
    assert 'place = "."  # this folder\n' in card(tiny_recipe())[1]


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("{type: gmpo}", "the geometric mean of its tokens' probability ratios, new to old policy. Each token's log-ratio is clipped"),
        ("{type: gmpo, clip: none}", "Nothing is clipped."),
        ("{type: gmpo, clip: sequence, length_normalized: false}", "the product of its tokens' ratios, new to old policy. The sum of"),
        ("{type: grpo}", "Group Relative Policy Optimization (arXiv 2402.03300)."),
        ("{type: gspo}", "Group Sequence Policy Optimization (arXiv 2507.18071). The bounds are of a response's geometric-mean ratio."),
    ],
)
def test_every_objective_is_told_in_words(setting: str, told: str) -> None:
    recipe = tiny_recipe(f"learner.objective={setting}")
    assert told in card(recipe)[1] and recipe.learner.objective.type in card(recipe)[0]["tags"]


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (("prompts.held_out=0",), "None."),
        (("prompts.held_out=8",), "One question in 16, told by its hash, is never trained on; 8 of those are asked."),
        (("prompts.held_out=8", "prompts.source={type: file, path: /x/a.jsonl}"), "8 of the same source, chosen by the hash"),
        (
            ("prompts.held_out=8", "prompts.source={type: file, path: a.jsonl}", "prompts.held_out_source={type: file, path: /x/b.jsonl}"),
            "The first 8 usable problems of `b.jsonl`",
        ),
    ],
)
def test_the_rule_of_the_held_out_problems_is_told(overrides: tuple[str, ...], told: str) -> None:
    assert words.held_out(tiny_recipe(*overrides).prompts).startswith(told)


def test_all_parts_of_the_reward_are_told() -> None:
    parts = "[{type: verifier, task: math}, {type: function, path: 'my.module:score', weight: 0.5}]"
    recipe = tiny_recipe(f"reward.parts={parts}", "reward.overlong={limit: 16, buffer: 4}")
    told = "the verifier `math`; plus the function `my.module:score`, times 0.5. Responses near the token limit are punished."
    assert words.reward(recipe) == told


@pytest.mark.parametrize("turns", [("replay.max_staleness=0",), ("replay.max_staleness=4", "replay.exact_staleness=true")])
def test_only_a_run_by_turns_on_one_engine_is_said_to_be_repeatable(turns: tuple[str, ...]) -> None:
    assert "bit for bit" in words.repeatable(tiny_recipe(*turns))
    for others in (("replay.max_staleness=4",), (*turns, "generation.engines=2")):
        assert "other weights each time" in words.repeatable(tiny_recipe(*others))


def test_a_setting_cannot_break_the_table() -> None:
    lines = card(tiny_recipe("learner.objective={type: cispo}", "learner.correction={type: tis}"))[1].splitlines()
    rows = [line for line in lines[lines.index("| setting | value |") :] if line.startswith("|")]
    assert len(rows) > 15 and all(line.replace("\\|", "").count("|") == 3 for line in rows)
