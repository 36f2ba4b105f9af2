"""What `gmpo plan` says of the tiny recipe, against the memory of its real processes.

Private memory (RssAnon) is compared: it does not depend on who else on the machine has the same libraries open.
"""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from services.config import load_recipe
from services.plan.estimate import Machine, estimate
from services.plan.parts import GIB
from services.plan.shapes import of_tiny
from tests.integration.conftest import RUN_TIMEOUT_S, TINY, Gmpo

pytestmark = pytest.mark.integration

SHORT = ("run.steps=2", "run.export_every=1", "learner.checkpoint_every=1", "evaluation.every=0", "prompts.held_out=64")
"""Settings under which the tiny recipe ends soon. Evaluation still fills an engine: 64 problems, four samples of each."""
EVERY_S = 0.5
"""Seconds between two looks; a run's memory grows for longer."""
TOLERANCE = 0.25
POOLS = {
    "engines": ("Engine",),
    "learner": ("RayTrainWorker",),
    "learner's control": (
        "TrainController",
        "SynchronizationActor",
        "_AutoscalingCoordinatorActor",
        "PreemptionWatcher",
        "PlacementGroupCleaner",
        "DatasetManager",
    ),
    "reference": ("ReferenceScorer",),
    "reward": ("Verifier",),
    "driver": ("ReplayQueue", "Recorder"),
    "Ray": ("DashboardAgent", "RuntimeEnvAgent"),
}
"""What Ray calls the processes of each pool: the class of an actor, and the method while it works."""
BY_TITLE = {f"ray::{kind}": pool for pool, kinds in POOLS.items() for kind in kinds}


def pool_of(process: psutil.Process, driver: int) -> str:
    """The pool of a process, or of the nearest one above it that is of any; nothing for workers that are not yet anybody's."""
    if process.pid == driver:
        return "driver"
    words = process.cmdline()
    title = " ".join(words).strip()
    if title.startswith("ray::") or any(word.endswith("default_worker.py") for word in words[:3]):
        return BY_TITLE.get(title.partition(".")[0], "")
    if "/ray/" in title:  # Ray's own programs, which lie in its package
        return "Ray"
    above = process.parent()
    return pool_of(above, driver) if above else ""


def private_bytes(process: psutil.Process) -> int:
    """Memory that is this process's alone, whatever else runs."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")), 0)


def held(driver: psutil.Process) -> Counter[str]:
    """Private bytes of each pool at this moment."""
    found: Counter[str] = Counter()
    for process in (driver, *driver.children(recursive=True)):
        with suppress(psutil.Error, OSError):  # it has just ended
            found[pool_of(process, driver.pid)] += private_bytes(process)
    return found


def moments(run: subprocess.Popen[str]) -> Iterator[Counter[str]]:
    """What each pool holds, time and again until the run ends."""
    driver = psutil.Process(run.pid)
    while run.poll() is None:
        with suppress(psutil.NoSuchProcess):
            yield held(driver)
        with suppress(subprocess.TimeoutExpired):
            run.wait(EVERY_S)


@pytest.mark.timeout(RUN_TIMEOUT_S)
def test_the_tiny_recipe_takes_what_the_plan_says(gmpo: Gmpo, warm_model: Path) -> None:
    recipe = load_recipe(TINY, SHORT)
    plan = estimate(recipe, of_tiny(recipe.policy), Machine(gpus=0, gpu_bytes=80 * GIB, gpus_per_node=8))  # type: ignore[arg-type]
    run = gmpo.start("train", str(TINY), "run.name=plan", *SHORT, RAY_ADDRESS="local")
    peaks: Counter[str] = Counter()
    for moment in moments(run):
        peaks |= moment | Counter({"in all": moment.total() - moment[""]})
    assert run.returncode == 0, gmpo.output.read_text()

    said = {pool.name: pool.all_host for pool in plan.pools}
    said["in all"] = sum(said.values())
    off = {name: f"{size / 2**20:.0f} MiB said, {peaks[name] / 2**20:.0f} MiB seen" for name, size in said.items()}
    assert {name: size for name, size in said.items() if abs(size - peaks[name]) > TOLERANCE * peaks[name]} == {}, off

    directory = gmpo.root / "plan"
    for name, size in (("checkpoints/step-2", plan.disk.checkpoint), ("policies/step-2", plan.disk.version)):
        seen = sum(file.stat().st_size for file in (directory / name).iterdir())
        assert abs(size - seen) <= TOLERANCE * seen, f"{name}: {size} bytes said, {seen} seen"
