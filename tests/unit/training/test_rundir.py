from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from actors.errors import ConfigError
from services.config import resolved
from services.policy import orders
from services.training.rundir import RunDirectory, recipe_of, request_stop
from tests.unit.recipes import tiny_recipe

Open = Callable[..., tuple[RunDirectory, bool]]


@pytest.fixture
def opened() -> Iterator[Open]:
    """opened(*overrides) -> (run, whether it goes on), checked and locked; closed when the test ends."""
    runs = []

    def opened(*overrides: str) -> tuple[RunDirectory, bool]:
        run = RunDirectory(tiny_recipe(*overrides))
        runs.append(run)
        run.check()
        return run, run.open()

    yield opened
    for run in runs:
        run.close()


def did_a_step(run: RunDirectory) -> None:
    """From here on the directory belongs to its recipe."""
    (run.path / "metrics.jsonl").write_text('{"step": 1}\n')
    run.close()


def test_a_new_run_keeps_its_resolved_recipe(opened: Open, root: Path) -> None:
    run, going_on = opened("run.steps=3")
    assert not going_on and run.path == root / "tiny"
    assert yaml.safe_load(recipe_of(run.path).read_text()) == resolved(tiny_recipe("run.steps=3"))


def test_a_run_that_starts_over_has_no_evaluations_of_the_one_before(opened: Open) -> None:
    run, _ = opened("run.steps=3")
    run.append_evaluation({"step": 0, "sampled": 0.9})
    run.close()  # killed before its first step
    again, going_on = opened("run.steps=4")
    assert not going_on and again.evaluated == set()


def test_a_torn_evaluation_is_done_again(opened: Open) -> None:
    run, _ = opened()
    run.append_evaluation({"step": 0, "sampled": 0.3})
    run.append_evaluation({"step": 1, "sampled": 0.4})
    with (run.path / "evaluation.jsonl").open("a") as file:
        file.write('{"step": 2, "samp')
    assert run.evaluated == {0, 1}
    run.rewind(2)
    run.append_evaluation({"step": 2, "sampled": 0.5})
    assert run.evaluated == {0, 1, 2}


def test_the_end_is_told_once_metrics_and_evaluation_are_there(opened: Open) -> None:
    run, _ = opened("run.steps=1")
    assert not run.told_the_end
    did_a_step(run)
    assert not run.told_the_end
    run.append_evaluation({"step": 1, "sampled": 0.4})
    assert run.told_the_end
    silent, _ = opened("run.steps=1", "run.name=silent", "prompts.held_out=0")
    did_a_step(silent)
    assert silent.told_the_end


def test_a_second_driver_is_refused_by_name_until_the_first_has_gone(opened: Open) -> None:
    first, _ = opened()
    with pytest.raises(ConfigError, match=f"in use by .* pid {os.getpid()}"):
        opened()
    did_a_step(first)
    _, going_on = opened()
    assert going_on


def test_the_lock_of_a_killed_driver_holds_nobody_up(opened: Open, root: Path) -> None:
    script = (
        "import sys; from services.training.rundir import RunDirectory; from tests.unit.recipes import tiny_recipe\n"
        "run = RunDirectory(tiny_recipe()); run.open(); print('locked', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout and other.stdout.readline() == "locked\n"
        with pytest.raises(ConfigError, match=f"pid {other.pid}"):
            opened()
        other.kill()
    assert opened()[0].path == root / "tiny"


def test_an_equal_recipe_goes_on(opened: Open) -> None:
    did_a_step(opened("run.steps=3")[0])
    assert opened("run.steps=3")[1]


def test_a_run_that_never_did_a_step_binds_nobody(opened: Open) -> None:
    opened("run.steps=3")[0].close()
    run, going_on = opened("run.steps=4")
    assert not going_on
    assert yaml.safe_load(recipe_of(run.path).read_text())["run"]["steps"] == 4


def test_an_unequal_recipe_is_refused_with_the_keys_that_differ(opened: Open, root: Path) -> None:
    did_a_step(opened("run.steps=3")[0])
    before = {path.name: path.read_bytes() for path in (root / "tiny").iterdir()}
    with pytest.raises(ConfigError) as caught:
        opened("run.steps=4", "learner.optimizer.lr=0.5", "learner.objective.type=grpo", "learner.objective.clip_high=0.2")
    named = str(caught.value).splitlines()[1:]
    assert {"run.steps", "learner.optimizer.lr", "learner.objective.type"} <= set(named)
    assert "run.seed" not in named
    assert {path.name: path.read_bytes() for path in (root / "tiny").iterdir()} == before


def test_a_run_that_was_moved_goes_on(opened: Open, root: Path, tmp_path: Path) -> None:
    did_a_step(opened()[0])
    (tmp_path / "elsewhere").mkdir()
    (root / "tiny").rename(tmp_path / "elsewhere" / "tiny")
    assert opened(f"run.root={tmp_path / 'elsewhere'}")[1]


def test_a_relative_root_is_refused_inside_a_ray_job(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(ConfigError, match=r"run\.root: 'runs' is relative"):
        RunDirectory(tiny_recipe("run.root=runs")).check()
    RunDirectory(tiny_recipe(f"run.root={root}")).check()


def test_a_relative_root_is_fine_elsewhere() -> None:
    RunDirectory(tiny_recipe("run.root=runs")).check()


def test_a_check_writes_nothing(root: Path) -> None:
    RunDirectory(tiny_recipe()).check()
    assert not root.exists()


def test_a_stop_is_seen_by_the_driver_and_forgotten_by_the_next(opened: Open) -> None:
    run, _ = opened()
    assert not run.stop_requested()
    assert f"pid {os.getpid()}" in request_stop(run.path)
    assert run.stop_requested()
    run.close()
    later, _ = opened()
    assert not later.stop_requested()


def test_a_pod_stops_only_its_own_driver_and_can_have_it_go_on_elsewhere(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    run, _ = opened()
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr("socket.gethostname", lambda: "another-pod")
        with pytest.raises(ConfigError, match="not by this machine"):
            request_stop(run.path, here=True, resubmit=True)
    assert not run.stop_requested()
    request_stop(run.path, here=True)
    assert run.stop_requested() and not run.to_be_resubmitted()
    request_stop(run.path, here=True, resubmit=True)
    assert run.to_be_resubmitted()


def test_a_job_waits_for_the_driver_before_it_to_let_go(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    first, _ = opened()
    monkeypatch.setattr("time.sleep", lambda _: first.close())
    assert opened()[0].path == first.path


def test_what_holds_no_run_cannot_be_stopped(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no run"):
        request_stop(tmp_path)
    assert not list(tmp_path.iterdir())


def test_going_back_forgets_the_evaluations_of_later_steps(opened: Open) -> None:
    run, _ = opened()
    run.rewind(3)
    for step in (0, 10, 20):
        run.append_evaluation({"step": step})
    run.rewind(10)
    rows = (run.path / "evaluation.jsonl").read_text().splitlines()
    assert rows == ['{"step": 0}', '{"step": 10}']


def test_nobody_can_be_asked_to_stop_a_run_that_nobody_drives(opened: Open) -> None:
    run, _ = opened()
    run.close()
    with pytest.raises(ConfigError, match="nobody drives"):
        request_stop(run.path)
    assert not run.stop_requested()


def test_a_learner_group_that_started_and_saved_nothing_binds_nobody(opened: Open) -> None:
    run, _ = opened()
    (run.path / "checkpoints").mkdir()
    run.close()
    opened("learner.lora.rank=4")


def test_a_run_goes_on_with_another_number_of_ranks(opened: Open) -> None:
    run, _ = opened("learner.ranks=2")
    did_a_step(run)
    assert opened("learner.ranks=3")[1]


def test_a_run_goes_on_elsewhere_in_the_cluster_and_on_another_one(opened: Open) -> None:
    did_a_step(opened("generation.resources={engines: 1}")[0])
    moved = ("generation.resources={gpus: 2}", "learner.cpus=3", "reward.actors=5", "reward.max_actors=7", "cluster.address=elsewhere:6379")
    assert opened(*moved)[1]
    with pytest.raises(ConfigError, match=r"generation\.engines"):
        opened(*moved, "generation.engines=2")


def a_version(policies: Path, step: int) -> Path:
    """A directory that counts as one."""
    (policies / f"step-{step}").mkdir(parents=True)
    (policies / f"step-{step}" / "manifest.json").write_text("{}")
    return policies / f"step-{step}"


def test_versions_are_also_found_under_a_url_and_nowhere_else_without_one(opened: Open, root: Path, tmp_path: Path) -> None:
    run, _ = opened()
    assert (run.policies_url, run.mirror) == (str(root / "tiny" / "policies"), None)
    for place in (tmp_path / "store", (root / "tiny").as_uri()):
        assert RunDirectory(tiny_recipe(f"run.storage={place}")).mirror is None
    url = "s3://runs/a?endpoint_override=127.0.0.1:9&scheme=http&region=x"
    stored = RunDirectory(tiny_recipe(f"run.storage={url}"))
    assert stored.policies == run.policies
    assert stored.mirror == stored.policies_url == "s3://runs/a/policies?endpoint_override=127.0.0.1:9&scheme=http&region=x"
    assert stored.checkpoints == "s3://runs/a/checkpoints?endpoint_override=127.0.0.1:9&scheme=http&region=x"


def test_storage_with_the_versions_of_another_run_is_refused_and_left_alone(opened: Open, tmp_path: Path) -> None:
    version = a_version(tmp_path / "store" / "policies", 4)
    with pytest.raises(ConfigError, match=r"run\.storage: file://.*/policies holds the policy versions of another run"):
        opened(f"run.storage={(tmp_path / 'store').as_uri()}")
    assert version.exists()


def test_the_first_version_and_the_orders_of_a_run_that_never_did_a_step_are_taken_away(opened: Open, tmp_path: Path) -> None:
    policies = tmp_path / "store" / "policies"
    version = a_version(policies, 0)
    orders.write(policies, orders.Orders().promote(0))
    opened(f"run.storage={(tmp_path / 'store').as_uri()}")
    assert not version.exists()
    assert orders.read(policies) == orders.Orders()
