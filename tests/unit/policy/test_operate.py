from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from actors.errors import UsageError
from services.cli import app
from services.config import dump, parse_recipe
from services.policy import keys
from services.policy.operate import listed, order
from tests.unit.policy.conftest import Write

RECIPE = {
    "run": {"name": "run", "steps": 12, "prompts_per_step": 4},
    "prompts": {"source": {"type": "digits"}, "max_tokens": 32},
    "generation": {"group_size": 4, "max_tokens": 16},
}


@pytest.fixture
def run(policies: Path, write: Write) -> str:
    for step in (0, 5, 10):
        write(step, seed=step)
    (policies.parent / "config.yaml").write_text(dump(parse_recipe(RECIPE)))
    return str(policies.parent)


def test_orders_on_the_run_directory_are_those_of_the_endpoint(run: str) -> None:
    assert (listed(run, None)["policy"], listed(run, None)["following"]) == (10, True)
    assert order(run, "promote", 5, None)["policy"] == 5
    assert order(run, "pin", 10, None)["data"][2]["pinned"]
    assert order(run, "rollback", None, None)["policy"] == 0
    with pytest.raises(UsageError, match="no good version is older than step 0"):
        order(run, "rollback", None, None)
    assert order(run, "follow", None, None)["policy"] == 10
    assert not order(run, "unpin", 10, None)["data"][2]["pinned"]


def test_an_order_about_a_version_that_is_not_there_changes_nothing(run: str) -> None:
    with pytest.raises(UsageError, match=r"there is no policy@step-7"):
        order(run, "promote", 7, None)
    assert listed(run, None)["policy"] == 10


def test_the_verbs_print_the_versions(run: str) -> None:
    shown = CliRunner().invoke(app, ["policy", "promote", run, "5"])
    assert shown.exit_code == 0, shown.output
    assert "policy@step-10" in shown.output
    (line,) = [line for line in shown.output.splitlines() if "policy@step-5" in line]
    assert " policy" in line.removeprefix("policy@step-5")
    missing = CliRunner().invoke(app, ["policy", "list", f"{run}-elsewhere"])
    assert missing.exit_code == 2


def test_a_key_is_printed_once_and_kept_as_a_hash(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    made = CliRunner().invoke(app, ["policy", "key", str(file), "ana", "--scope", "admin", "--days", "3"])
    secret = made.output.strip()
    assert made.exit_code == 0 and secret not in file.read_text()
    found = keys.KeyRing((), file).find(secret)
    assert found is not None and (found.name, found.scope) == ("ana", "admin") and found.expires is not None


def test_an_endpoint_that_is_not_there_is_named(run: str) -> None:
    with pytest.raises(UsageError, match=r"http://127\.0\.0\.1:9: no answer"):
        listed("http://127.0.0.1:9", "key")
