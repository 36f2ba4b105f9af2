from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from actors.errors import PolicyVersionError, UnknownVersion
from actors.weights.version import version_path
from services.policy import orders as standing
from services.policy.catalogue import Catalogue
from services.policy.lookout import Lookout
from tests.unit.policy.conftest import Write


@pytest.fixture
def lookout(policies: Path, write: Write) -> Lookout:
    for step in (0, 5, 10):
        write(step, seed=step)
    (policies.parent / "evaluation.jsonl").write_text("".join(json.dumps({"step": s, "greedy": g}) + "\n" for s, g in ((0, 0.9), (5, 0.7))))
    (policies.parent / "metrics.jsonl").write_text(json.dumps({"step": 12, "reward/mean": 0.5}) + "\n")
    made = Lookout(str(policies), policies.parent, "eval/greedy", Catalogue(policies))
    made.look()
    return made


def truncate(directory: Path) -> None:
    with (directory / "model.safetensors").open("r+b") as weights:
        weights.truncate(1000)


def test_names_mean_what_the_run_says(lookout: Lookout) -> None:
    assert (lookout.wanted, lookout.best, lookout.good) == (10, 0, [0, 5, 10])
    assert [lookout.step(name, 5) for name in ("policy", "policy@best", "policy@step-10")] == [5, 0, 10]
    for name in ("policy@step-7", "policy@step-05", "policy@step--1", "policy@", "gpt", "policy@step-" + "9" * 30):
        with pytest.raises(UnknownVersion):
            lookout.step(name, 5)


def test_the_age_counts_what_the_run_has_trained_since(lookout: Lookout) -> None:
    seconds, steps = lookout.age(lookout.manifests[5])
    assert steps == 7 and 0 <= seconds < 60


def test_a_refused_version_is_passed_over_with_its_reason_until_it_is_gone(lookout: Lookout, policies: Path) -> None:
    truncate(version_path(policies, 10))
    with pytest.raises(PolicyVersionError, match="1000 bytes"):
        lookout.fetch(10, version_path(policies, 5))
    assert lookout.wanted == 5
    with pytest.raises(PolicyVersionError, match="1000 bytes"):
        lookout.step("policy@step-10", 5)
    (refused,) = [row for row in lookout.describe(5)["data"] if row["refused"]]
    assert (refused["step"], "1000 bytes" in refused["refused"]) == (10, True)
    lookout.look()
    assert 10 in lookout.refusals
    shutil.rmtree(version_path(policies, 10))
    lookout.look()
    assert not lookout.refusals and lookout.wanted == 5


def test_an_order_stands_also_where_newer_versions_come(lookout: Lookout, policies: Path, write: Write) -> None:
    write(11, seed=11)
    standing.write(policies, standing.Orders().promote(5))
    lookout.look()
    assert (lookout.wanted, lookout.describe(5)["following"]) == (5, False)
    lookout.refuse(5, "went bad")
    assert lookout.wanted is None  # the replica goes on with what it has, rather than with what nobody ordered


def test_trouble_with_the_folder_leaves_what_was_known(lookout: Lookout, policies: Path) -> None:
    (policies / "serving.json").write_text("{")
    lookout.look()
    assert "serving.json" in (lookout.trouble or "") and lookout.wanted == 10
    (policies / "serving.json").unlink()
    lookout.look()
    assert lookout.trouble is None
