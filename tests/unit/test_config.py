from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from actors.errors import ConfigError
from services.config import differing_keys, dump, load_recipe, parse_recipe, resolved
from tests.unit.recipes import TINY, tiny_recipe


def complaints(*overrides: str) -> dict[str, str]:
    """Path -> what is wrong with it."""
    with pytest.raises(ConfigError) as caught:
        tiny_recipe(*overrides)
    lines = [line.partition(": ") for line in str(caught.value).splitlines()]
    return {path: text for path, _, text in lines}


@pytest.mark.parametrize(
    ("overrides", "path"),
    [
        (["learner.updates_per_step=7"], "learner.updates_per_step"),
        (["replay.max_staleness=1", "replay.capacity=63"], "replay.capacity"),
        (["generation.max_model_len=47"], "generation.max_model_len"),
        (["prompts.max_tokens=1009"], "policy.max_positions"),
        (["learner.kl.coefficient=0.1", "learner.skip_zero_advantage=false", "reference.enabled=false"], "reference.enabled"),
        (["learner.kl={coefficient: 0.1, place: reward}", "reference.enabled=false"], "reference.enabled"),
        (["learner.kl.coefficient=0.1"], "learner.skip_zero_advantage"),
        (["reward.overlong={limit: 17, buffer: 4}"], "reward.overlong.limit"),
        (["reward.overlong={limit: 8, buffer: 9}"], "reward.overlong.buffer"),
        (["generation.top_p=0.9", "learner.correction.type=tis"], "generation.top_p"),
        (["generation.top_k=5", "learner.denominator=behaviour"], "generation.top_k"),
        (["policy.heads=3"], "policy.heads"),
        (["policy.kv_heads=3"], "policy.kv_heads"),
        (["prompts.template=r1", "prompts.system=Be brief."], "prompts.system"),
        (["prompts.held_out=0", "prompts.held_out_source={type: digits}"], "prompts.held_out_source"),
        (["reward.cpu_limit_s=31"], "reward.wall_limit_s"),
        (["reward.parts=[{type: verifier}, {type: verifier}]"], "reward.parts"),
        (["telemetry.trackers=[{type: tensorboard}, {type: tensorboard}]"], "telemetry.trackers"),
    ],
)
def test_every_contradiction_names_its_path(overrides: list[str], path: str) -> None:
    assert path in complaints(*overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        ["learner.updates_per_step=8"],
        ["replay.max_staleness=1", "replay.capacity=64"],
        ["generation.max_model_len=48"],
        ["prompts.max_tokens=1008"],
        ["learner.kl.coefficient=0.1", "learner.skip_zero_advantage=false"],
        ["learner.kl={coefficient: 0.1, place: reward}"],
        ["reward.overlong={limit: 16, buffer: 16}"],
        ["policy.heads=2", "policy.kv_heads=1"],
    ],
)
def test_what_just_fits_is_accepted(overrides: list[str]) -> None:
    assert tiny_recipe(*overrides)


def test_contradictions_are_all_told_at_once() -> None:
    assert complaints("learner.updates_per_step=7", "replay.capacity=3").keys() == {"learner.updates_per_step", "replay.capacity"}


@pytest.mark.parametrize(
    ("override", "path"),
    [
        ("run.stepz=3", "run.stepz"),
        ("runn.steps=3", "runn"),
        ("run.steps=many", "run.steps"),
        ("run.steps=0", "run.steps"),
        ("run.steps=2.5", "run.steps"),
        ("run.name=../elsewhere", "run.name"),
        ("run.name=", "run.name"),
        ("generation.temperature=.nan", "generation.temperature"),
        ("generation.temperature=.inf", "generation.temperature"),
        ("learner.objective.clip_low=-1", "learner.objective.clip_low"),
        ("learner.objective.epsilon=0.4", "learner.objective.epsilon"),
        ("learner.advantage={ddof: 0}", "learner.advantage.type"),
        ("learner.objective.type=reinforce", "learner.objective.type"),
        ("prompts.source.digits=1", "prompts.source.digits"),
        ("prompts.source={type: file, path: [rows.jsonl, 3]}", "prompts.source.path.1"),
        ("prompts.source={type: file, file: rows.jsonl}", "prompts.source.file"),
        ("policy={type: pretrained, heads: 4}", "policy.heads"),
        ("policy={type: pretrained}", "policy.path"),
        ("reward.parts=[{type: function, path: 'no colon'}]", "reward.parts.0.path"),
        ("telemetry.trackers=[{type: wandb, mode: sometimes}]", "telemetry.trackers.0.mode"),
        ("learner=", "learner"),
        ("learner={1: 2}", "learner.1"),
    ],
)
def test_a_bad_field_is_named_as_the_person_wrote_it(override: str, path: str) -> None:
    assert path in complaints(override)


def test_every_bad_field_is_named() -> None:
    found = complaints("run.steps=0", "learner.ranks=none", "weights.bucket=1")
    assert found.keys() == {"run.steps", "learner.ranks", "weights.bucket"}


@pytest.mark.parametrize(
    "override", ["run.name=2024-99-99", "run.seed=0b_", "run.steps=[[[", "run.steps=" + "[" * 9999, "run.seed=" + "9" * 9999]
)
def test_a_value_that_is_no_yaml_names_its_path(override: str) -> None:
    assert "run." + override[4:8] in str(complaints(override))


@pytest.mark.parametrize("override", ["run.steps", "=3", ".steps=3", "run.=3", "run..steps=3", ""])
def test_an_override_without_a_path_or_a_value_is_refused(override: str) -> None:
    assert "section.field=value" in str(complaints(override))


def test_an_override_below_a_value_is_refused() -> None:
    assert "run.steps.more" in complaints("run.steps.more=3")


def test_overrides_win_over_the_file_and_the_last_one_over_the_others() -> None:
    recipe = tiny_recipe("run.steps=7", "learner.optimizer.lr=1e-2", "run.steps=8", "telemetry.trackers=[{type: tensorboard}]")
    assert (recipe.run.steps, recipe.learner.optimizer.lr) == (8, 0.01)
    assert recipe.learner.optimizer.schedule == tiny_recipe().learner.optimizer.schedule
    assert [tracker.type for tracker in recipe.telemetry.trackers] == ["tensorboard"]


def test_an_override_may_open_a_section_the_file_does_not_have(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump({key: value for key, value in yaml.safe_load(TINY.read_text()).items() if key != "replay"}))
    assert load_recipe(file, ["replay.max_staleness=3"]).replay.max_staleness == 3


@pytest.mark.parametrize("content", [b"", b"- a\n- b\n", b"run: {", b"\xff\xfe\x00", b"just words", b"run: 2024-99-99", b"[" * 9999])
def test_a_file_that_is_no_recipe_is_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"recipe\.yaml"):
        load_recipe(file)


@pytest.mark.parametrize("place", ["missing.yaml", "."])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, place: str) -> None:
    with pytest.raises(ConfigError, match=str(tmp_path)):
        load_recipe(tmp_path / place)


def test_a_resolved_recipe_read_again_is_the_same() -> None:
    recipe = tiny_recipe("learner.objective.type=grpo", "learner.objective.clip_high=0.28")
    again = parse_recipe(yaml.safe_load(dump(recipe)))
    assert again == recipe
    assert differing_keys(resolved(recipe), resolved(again)) == []


def test_the_environment_moves_the_run_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GMPO_RUN_ROOT", "/elsewhere")
    assert tiny_recipe().run_dir == Path("/elsewhere/tiny")
    assert tiny_recipe("run.root=/here").run_dir == Path("/here/tiny")


@pytest.mark.parametrize(
    ("ours", "theirs", "keys"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}, ["a.c"]),
        ({"a": {"b": {"c": 1}}, "d": [1]}, {"a": {"b": {"c": 2}}, "d": [1, 2]}, ["a.b.c", "d"]),
        ({"a": 1}, {"b": 1}, ["a", "b"]),
        ({"a": {"type": "x", "k": 1}}, {"a": {"type": "y"}}, ["a.type", "a.k"]),
        ({"a": {"b": 1}}, {"a": 3}, ["a"]),
        ({"a": 1}, {"a": True, "b": None}, []),
    ],
)
def test_differing_keys_are_paths(ours: dict[str, object], theirs: dict[str, object], keys: list[str]) -> None:
    assert differing_keys(ours, theirs) == keys
    assert sorted(differing_keys(theirs, ours)) == sorted(keys)


def test_one_yaml_override_per_leaf_is_all_a_recipe_needs() -> None:
    """`section.field=value` reaches every field that `gmpo config` prints."""

    def leaves(tree: dict[str, object], prefix: str = "") -> list[tuple[str, object]]:
        return [
            leaf
            for key, value in tree.items()
            for leaf in (leaves(value, f"{prefix}{key}.") if isinstance(value, dict) and value else [(f"{prefix}{key}", value)])
        ]

    recipe = tiny_recipe()
    again = tiny_recipe(
        *(f"{path}={yaml.safe_dump(value, default_flow_style=True).partition(chr(10))[0]}" for path, value in leaves(resolved(recipe)))
    )
    assert again == recipe


@pytest.mark.parametrize(
    ("override", "path", "help"),
    [
        ("learner.lr=1e-4", "learner.lr", "learner.optimizer.lr"),
        ("run.stepz=3", "run.stepz", "run.steps"),
        ("learner.objective=grpo", "learner.objective", "write learner.objective.type=grpo"),
        ("learner.lora=32", "learner.lora", "is a section"),
        ("learner.objective.type=drgrpo", "learner.objective.type", "did you mean dr_grpo?"),
        ("learner.objective={type: grpo, clip: token}", "learner.objective.clip", "not with this type"),
        ("learner.correction.low=1", "learner.correction.type", "is needed"),
        ("learner.objective.type=dr_grpo", "learner.objective.max_length", "generation.max_tokens (16)"),
    ],
)
def test_a_natural_mistake_is_told_how_to_mend_it(override: str, path: str, help: str) -> None:
    assert help in complaints(override)[path]


def test_a_mapping_changes_only_the_keys_it_names() -> None:
    changed = tiny_recipe("replay={dynamic_sampling: true}")
    assert changed.replay.dynamic_sampling and changed.replay.max_staleness == 0
    other = tiny_recipe("learner.objective={clip_low: 0.1}", "learner.objective={type: dapo}")
    assert other.learner.objective.type == "dapo" and other.learner.objective.clip_low == 0.2
