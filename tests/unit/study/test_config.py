"""What a study's file may hold, and which runs it stands for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from actors.errors import ConfigError
from services.config import resolved
from services.study.config import Study, load_study
from tests.unit.recipes import TINY

STUDIES = TINY.parents[1] / "studies"
TREE = {
    "name": "small",
    "title": "A small study",
    "recipe": str(TINY),
    "settings": ["run.steps=7"],
    "seeds": [3, 5],
    "baseline": "grpo",
    "factors": {
        "objective": {"gmpo": ["learner.objective={type: gmpo}"], "grpo": ["learner.objective={type: grpo}"]},
        "lr": {"1e-3": ["learner.optimizer.lr=0.001"], "1e-4": ["learner.optimizer.lr=0.0001"]},
    },
}


def study(directory: Path, **changes: Any) -> Study:
    file = directory / "study.yaml"
    file.write_text(yaml.safe_dump(TREE | changes, sort_keys=False))
    return load_study(file)


def test_the_cells_are_all_combinations_and_their_runs_differ_in_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GMPO_RUN_ROOT", str(tmp_path / "runs"))
    small = study(tmp_path)
    assert [cell.name for cell in small.cells] == ["gmpo-1e-3", "gmpo-1e-4", "grpo-1e-3", "grpo-1e-4"]
    recipes = {cell.name: small.recipe(cell, 5) for cell in small.cells}
    last = recipes["grpo-1e-4"]
    assert last.learner.objective.type == "grpo" and last.learner.optimizer.lr == 1e-4
    assert last.run.seed == 5 and last.run.steps == 7
    assert last.run_dir == small.run_dir(small.cells[-1], 5) == tmp_path / "runs" / "small" / "grpo-1e-4-s5"
    trees = [resolved(recipe) for recipe in recipes.values()]
    for tree in trees:
        tree["run"].pop("name")
        tree["learner"].pop("objective")
        tree["learner"]["optimizer"].pop("lr")
    assert all(tree == trees[0] for tree in trees)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"baseline": "ppo"}, "baseline: 'ppo' is no level of objective"),
        ({"seeds": [1, 1]}, "seeds: one stands there twice"),
        ({"seeds": []}, "seeds"),
        ({"settings": ["run.stepz=7"]}, "in the cell gmpo-1e-3: run.stepz: no such field; did you mean run.steps?"),
        ({"name": "../elsewhere"}, "name"),
        ({"sedes": [1]}, "sedes"),
        ({"settings": ["run.root=/tmp"]}, "run.root=/tmp: a study gives its runs their places, names and seeds"),
        ({"settings": ["run.storage=/tmp"]}, "run.storage: a study keeps each run's checkpoints in its own directory"),
        ({"baseline": "a", "factors": {"x": {"a": [], "a-b": []}, "y": {"b-c": [], "c": []}}}, "two cells would have one name"),
        ({"recipe": "missing.yaml"}, "missing.yaml"),
    ],
)
def test_what_is_wrong_is_named_before_anything_runs(tmp_path: Path, changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        study(tmp_path, **changes)
    assert complaint in str(caught.value) and "study.yaml" in str(caught.value)


@pytest.mark.parametrize("path", sorted(STUDIES.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_studies_that_ship_hold_good_and_have_names_of_their_own(path: Path) -> None:
    assert load_study(path).name == path.stem


def test_the_objectives_of_the_small_study_are_those_it_names() -> None:
    small = load_study(STUDIES / "paper-small.yaml")
    objectives = {cell.name: small.recipe(cell, 0).learner for cell in small.cells}
    assert len(objectives) == 9 and len(small.seeds) == 5
    assert objectives["gmpo"].objective == objectives["gmpo"].objective.__class__()
    wide = objectives["grpo-wide"].objective
    assert wide.type == "grpo" and wide.ratio_bounds == pytest.approx((0.6703, 1.4918), abs=1e-4)
    assert objectives["grpo"].objective.type == "grpo" and objectives["grpo"].objective.ratio_bounds == (0.8, 1.2)
    assert objectives["dapo"].objective.type == "dapo" and objectives["dapo"].objective.ratio_bounds == (0.8, 1.28)
    assert objectives["dr-grpo"].objective.type == "dr_grpo" and objectives["dr-grpo"].advantage.type == "mean"
    assert objectives["gspo"].objective.type == "gspo"
    clips = {name: learner.objective.clip for name, learner in objectives.items() if learner.objective.type == "gmpo"}
    assert clips == {"gmpo": "token", "gmpo-no-clip": "none", "gmpo-seq-clip": "sequence", "gmpo-no-norm": "token"}
    bare = objectives["gmpo-no-norm"].objective
    assert bare.type == "gmpo" and not bare.length_normalized
