from __future__ import annotations

from pathlib import Path

import pytest

from actors.errors import PolicyVersionError
from actors.weights.version import version_path
from services.policy.catalogue import Catalogue
from tests.unit.policy.conftest import Write


def test_versions_are_in_the_order_of_their_steps_and_only_the_committed(write: Write, policies: Path) -> None:
    for step in (2, 10, 9):
        write(step)
    (policies / "step-11").mkdir()
    (policies / "step-012").mkdir()
    (policies / ".step-12.abc.tmp").mkdir()
    (policies / "notes.txt").touch()
    catalogue = Catalogue(policies.parent)
    assert [manifest.step for manifest in catalogue.versions()] == [2, 9, 10]
    assert catalogue.newest().step == 10
    assert catalogue.path(9) == policies / "step-9"


def test_a_bad_newest_version_is_passed_over_with_its_reason(write: Write, policies: Path) -> None:
    for step in (1, 2, 3):
        write(step)
    (version_path(policies, 3) / "config.json").unlink()
    (version_path(policies, 2) / "manifest.json").write_text("{")
    selection = Catalogue(policies.parent).select()
    assert (selection.manifest.step, selection.path) == (1, policies / "step-1")
    assert [refusal.step for refusal in selection.refused] == [3, 2]
    assert "config.json: missing" in selection.refused[0].reason
    assert [manifest.step for manifest in Catalogue(policies.parent).versions()] == [1, 3]


def test_a_version_under_another_steps_name_is_refused(write: Write, policies: Path) -> None:
    write(1)
    version_path(policies, 1).rename(version_path(policies, 8))
    with pytest.raises(PolicyVersionError, match="the manifest is of step 1"):
        Catalogue(policies.parent).select()


def test_a_run_without_versions_says_so(tmp_path: Path) -> None:
    catalogue = Catalogue(tmp_path)
    assert catalogue.versions() == []
    for ask in (catalogue.newest, catalogue.select):
        with pytest.raises(PolicyVersionError, match="no policy version yet"):
            ask()
