"""What rarely happens to a run: a full disk, a damaged checkpoint, a dead cluster, lost calls, a stalled engine, a full object store."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from actors.weights.manifest import verify_version
from services.ledger import audit_run
from services.training.drive import newest_whole
from tests.integration.conftest import AHEAD, ALERT, QUICK, SYNCHRONOUS, TINY, Gmpo, happened, steps_logged

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1200)]

STEPS = 8
SETTINGS = (*QUICK, f"run.steps={STEPS}")
PATIENT = "health={every_s: 1, answer_s: 600}"


def whole(run: Path) -> None:
    """The run came to its end and broke no rule."""
    audit, violations = audit_run(run)
    assert violations == ()
    assert audit.finished and list(audit.trained) == list(range(1, STEPS + 1))


def weights(run: Path) -> str:
    return verify_version(run / "policies" / f"step-{STEPS}").weights_sha256


# --- a full disk -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own that holds one checkpoint and a half of the tiny policy."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(place)], capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_ends_the_run_in_good_order_and_once_there_is_room_it_goes_on(gmpo: Gmpo, warm_model: Path, small_disk: Path) -> None:
    settings = ("train", str(TINY), "run.name=run", *SETTINGS, SYNCHRONOUS, ALERT, f"run.storage={small_disk}")
    assert gmpo.start(*settings).wait(400) == 1
    assert "(3 in a row)" in gmpo.output.read_text()
    assert gmpo.left_behind() == []
    run = gmpo.root / "run"
    assert happened(run, "checkpoint_failed") >= 3
    found, damages = newest_whole(str(small_disk / "checkpoints"))
    assert found is not None and found.step == 2 and not damages
    assert [place.name for place in (small_disk / "checkpoints").glob("step-*")] == ["step-2"]  # nothing half written is left

    subprocess.run(["mount", "-o", "remount,size=128m", str(small_disk)], check=True)
    assert gmpo.start(*settings).wait(400) == 0, gmpo.output.read_text()
    whole(run)


# --- damaged checkpoints ---------------------------------------------------------------------------------------------------------


def flip(checkpoint: Path) -> None:
    shard = next(checkpoint.glob("__1_*.distcp"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)


def cut(checkpoint: Path) -> None:
    shard = next(checkpoint.glob("__0_*.distcp"))
    os.truncate(shard, shard.stat().st_size - 1)


def remove(checkpoint: Path) -> None:
    (checkpoint / "rank-1.pt").unlink()


def mislead(checkpoint: Path) -> None:
    commit = json.loads((checkpoint / "commit.json").read_text())
    commit["files"]["state.json"][1] = "0" * 64
    (checkpoint / "commit.json").write_text(json.dumps(commit))


def test_a_damaged_checkpoint_is_passed_over_and_the_run_ends_with_the_same_weights(gmpo: Gmpo, warm_model: Path, tmp_path: Path) -> None:
    settings = (*SETTINGS, SYNCHRONOUS, ALERT)
    unbroken = gmpo.train("unbroken", *settings)
    harms: dict[str, Callable[[Path], None]] = {
        "other contents": flip,
        "bytes, not": cut,
        "is missing": remove,
        "state.json has other": mislead,
    }
    for said, harm in harms.items():
        run = gmpo.root / harm.__name__
        shutil.copytree(unbroken, run)
        config = run / "config.yaml"
        config.write_text(config.read_text().replace("name: unbroken", f"name: {harm.__name__}"))
        harm(run / "checkpoints" / f"step-{STEPS}")
        gmpo.train(harm.__name__, *settings)
        shown = [line for line in gmpo.output.read_text().splitlines() if "damaged and passed over" in line]
        assert f"step {STEPS} is damaged" in shown[-1] and said in shown[-1]
        whole(run)
        assert weights(run) == weights(unbroken)


# --- the cluster -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("daemon", ["raylet", "gcs_server"])
def test_without_its_cluster_a_run_ends_with_an_error_and_can_be_resumed(gmpo: Gmpo, warm_model: Path, daemon: str) -> None:
    """The run is endless: its actors can work on for half a minute after their cluster died."""
    settings = ("train", str(TINY), "run.name=run", *SETTINGS, AHEAD, ALERT, "run.steps=2000")
    driver, run = gmpo.start(*settings), gmpo.root / "run"
    gmpo.until(driver, lambda: steps_logged(run) >= 3)
    for process in psutil.Process(driver.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.name() == daemon:
                process.kill()
    assert driver.wait(180) not in {0, -signal.SIGSEGV, -signal.SIGABRT}
    assert gmpo.left_behind() == []
    done = steps_logged(run)
    driver = gmpo.start(*settings)
    gmpo.until(driver, lambda: steps_logged(run) >= done + 3)
    driver.send_signal(signal.SIGINT)
    assert driver.wait(180) == 0, gmpo.output.read_text()
    assert audit_run(run)[1] == ()


LOSSY = {"num_failures": 4, "req_failure_prob": 2, "resp_failure_prob": 2, "in_flight_failure_prob": 2}
"""Each process loses a few calls, or answers, or is told of a failure and called all the same."""


@pytest.mark.parametrize(
    "environment",
    [
        {"RAY_testing_rpc_failure": json.dumps({"CoreWorkerService.grpc_client.PushTask": LOSSY})},
        {"RAY_testing_asio_delay_us": "CoreWorkerService.grpc_client.PushTask=0:200000"},
    ],
    ids=["lost", "late"],
)
def test_calls_that_are_lost_or_late_lose_no_prompt(gmpo: Gmpo, warm_model: Path, environment: dict[str, str]) -> None:
    """Our own calls are made again. Ray Train's controller does not make its own again: then the run ends by name, and is gone on with."""
    settings = ("train", str(TINY), "run.name=run", *SETTINGS, AHEAD, ALERT, "learner.max_restarts=5")
    for life in range(3):
        if gmpo.start(*settings, **environment).wait(480) == 0:
            break
        said = gmpo.output.read_text()
        assert said.count("the learner group failed: Training failed due to controller error") == life + 1, said
    whole(gmpo.root / "run")


# --- the learner group -----------------------------------------------------------------------------------------------------------


def test_a_learner_rank_that_hangs_is_ended_and_the_group_goes_on(gmpo: Gmpo, warm_model: Path) -> None:
    driver, run = gmpo.start("train", str(TINY), "run.name=run", *SETTINGS, AHEAD, ALERT, "learner.ranks=2"), gmpo.root / "run"
    gmpo.until(driver, lambda: steps_logged(run) >= 3)
    gmpo.actors("RayTrainWorker")[1].suspend()
    assert driver.wait(240) == 0, gmpo.output.read_text()
    whole(run)
    assert audit_run(run)[0].account.learner_restarts == 1


# --- slow sides ------------------------------------------------------------------------------------------------------------------


def test_a_stalled_engine_makes_nothing_staler_than_the_bound(gmpo: Gmpo, warm_model: Path) -> None:
    settings = ("train", str(TINY), "run.name=run", *SETTINGS, AHEAD, PATIENT, "generation.engines=2", "weights.control_timeout_s=300")
    driver, run = gmpo.start(*settings), gmpo.root / "run"
    gmpo.until(driver, lambda: steps_logged(run) >= 3)
    engine = gmpo.actors("Engine")[0]
    engine.suspend()
    with pytest.raises(subprocess.TimeoutExpired):
        driver.wait(20)  # the publication waits for the engine, and the run for the publication
    engine.resume()
    assert driver.wait(280) == 0, gmpo.output.read_text()
    whole(run)
    ages = [json.loads(line)["staleness/max"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert max(ages) == 1


def test_a_small_object_store_slows_a_run_down_and_no_more(gmpo: Gmpo, warm_model: Path) -> None:
    """32 prompts of 64 responses under way: far more references than fit inline, in the smallest store that Ray takes."""
    settings = (
        *SETTINGS,
        "replay.max_staleness=3",
        ALERT,
        "cluster.object_store_mib=80",
        "run.prompts_per_step=32",
        "generation.group_size=64",
        "learner.updates_per_step=1",
    )
    driver = gmpo.start("train", str(TINY), "run.name=run", *settings)
    assert driver.wait(800) == 0, gmpo.output.read_text()
    whole(gmpo.root / "run")
