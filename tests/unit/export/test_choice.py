from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from actors.errors import ConfigError, UnknownVersion
from services.config import dump
from services.export.choice import choose
from tests.s3 import object_store
from tests.unit.export.conftest import RECIPE
from tests.unit.recipes import tiny_recipe


@pytest.mark.parametrize(("version", "step"), [("", 4), ("@newest", 4), ("@4", 4), ("@step-2", 2), ("@best", 2)])
def test_a_version_is_named_by_its_step_or_by_what_it_is(finished: Path, version: str, step: int) -> None:
    assert choose(f"{finished}{version}").step == step


def test_a_directory_may_have_an_at_in_its_name(finished: Path, tmp_path: Path) -> None:
    place = Path(shutil.copytree(finished, tmp_path / "me@host"))
    assert choose(str(place)).step == 4 and choose(f"{place}@2").step == 2


def test_the_metric_by_which_a_version_is_best_is_known(finished: Path) -> None:
    assert choose(f"{finished}@best").best_by == "eval/greedy" and choose(f"{finished}@2").best_by is None


def test_a_version_that_there_is_not_is_refused_with_those_there_are(run: Path) -> None:
    with pytest.raises(UnknownVersion, match=r"no version of step 3; it has those of steps 2, 4$"):
        choose(f"{run}@3")
    (run / "evaluation.jsonl").unlink()
    with pytest.raises(UnknownVersion, match=r"evaluated by eval/greedy, so none is the best"):
        choose(f"{run}@best")
    shutil.rmtree(run / "policies")
    with pytest.raises(UnknownVersion, match="no policy version yet"):
        choose(str(run))


def test_no_run_and_no_version_are_the_person_s_to_mend(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no run"):
        choose(f"{tmp_path / 'nothing'}@2")
    with pytest.raises(ConfigError, match=r"a version is written .*@step-N"):
        choose(f"{finished}@last")


def test_versions_may_lie_on_an_object_store(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from actors.weights.shelf import Shelf

    monkeypatch.setenv("GMPO_CACHE", str(tmp_path / "cache"))
    with object_store() as url:
        for step in (2, 4):
            Shelf(url.format("a-run/policies")).upload(run / "policies", step)
        shutil.rmtree(run / "policies")
        (run / "config.yaml").write_text(dump(tiny_recipe(*RECIPE, f"run.storage={url.format('a-run')}")))
        chosen = choose(f"{run}@2")
        assert (chosen.catalogue.fetch(chosen.step) / "model.safetensors").is_file()
