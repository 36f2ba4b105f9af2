"""Suites by name, and what must be there before one is asked.

paper, aime24, amc, math500, gsm8k, held_out    described in `suites/`
reasoning_gym/<task>                            100 problems of that task, put as the run puts its own
problems.jsonl (.json, .parquet)                a file of problems, put as the run puts its own
mine.yaml                                       a suite of one's own: the fields of SuiteConfig
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from actors.errors import ConfigError, DataError
from actors.prompts.config import FileSource, ReasoningGymSource
from actors.prompts.files import check_files
from actors.prompts.gym import open_task
from services.complaints import complaints
from services.config import NOT_YAML, Recipe, read_mapping
from services.evaluation.config import HeldOutSource, SuiteConfig

BUILT_IN = Path(__file__).parent / "suites"
GYM = "reasoning_gym/"
GYM_PROBLEMS = 100


def load_suite(suite: str, overrides: Sequence[str] = ()) -> SuiteConfig:
    """The suite of a name or a file, its top-level fields overridden by `field=value`; ConfigError names what is wrong with it.

    An overridden suite is another suite, so it needs `name=...` too: results of both must not be taken for each other.
    """
    tree = _tree(suite)
    changes = dict(map(_override, overrides))
    if changes and "name" not in changes:
        raise ConfigError(f"{suite}: with other settings it is another suite; give it a name too: name=...")
    tree |= changes
    try:
        return SuiteConfig.model_validate(tree)
    except ValidationError as error:
        raise ConfigError("\n".join(f"suite {suite}: {line}" for line in complaints(error, tree, SuiteConfig))) from None


def built_in() -> list[str]:
    """Names of the suites that come with the project."""
    return sorted(path.stem for path in BUILT_IN.glob("*.yaml"))


def completed(suite: SuiteConfig, recipe: Recipe) -> SuiteConfig:
    """The suite with length and grading filled in from the run's recipe where it leaves them open."""
    return suite.model_copy(
        update={
            "max_tokens": suite.max_tokens or recipe.generation.max_tokens,
            "reward": suite.reward or recipe.reward,
        }
    )


def located(source: FileSource, data: Path) -> FileSource:
    """The same files, relative paths taken from the folder of evaluation data."""
    return FileSource(path=tuple(path if "://" in path else str(data / Path(path).expanduser()) for path in source.paths))


def check(suite: SuiteConfig, recipe: Recipe, data: Path) -> None:
    """What can be known to be missing before anything starts: DataError for a file, ConfigError for a task or held-out problems."""
    missing = []
    for name, chosen in suite.sets.items():
        match chosen.source:
            case FileSource():
                missing += _missing(name, located(chosen.source, data))
            case ReasoningGymSource():
                open_task(chosen.source)
            case HeldOutSource() if recipe.prompts.held_out == 0:
                raise ConfigError(f"suite {suite.name}, set {name}: the run holds out no problems (prompts.held_out is 0)")
    if missing:
        hint = "--data or GMPO_EVAL_DATA name the folder for relative paths; a suite of the sets that are there is a YAML file of one's own"
        raise DataError(f"suite {suite.name}, {'; '.join(missing)}; {hint}")


def _missing(name: str, source: FileSource) -> list[str]:
    """What there is not of a set's files."""
    try:
        check_files(source.paths)
    except DataError as error:
        return [f"set {name}: {str(error).removeprefix('prompts: ')}"]
    return []


def _tree(suite: str) -> dict[str, Any]:
    path = Path(suite)
    if suite.startswith(GYM):
        task = suite.removeprefix(GYM)
        return _one_set(f"reasoning_gym.{task}", task, {"type": "reasoning_gym", "task": task, "size": GYM_PROBLEMS})
    if path.suffix in {".yaml", ".yml"}:
        return _read(path)
    if path.suffix in {".json", ".jsonl", ".parquet"}:
        name = re.sub(r"[^A-Za-z0-9._-]", "_", path.stem)
        return _one_set(name, name, {"type": "file", "path": suite})
    if suite not in built_in():
        near = difflib.get_close_matches(suite, built_in(), n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(built_in())}, {GYM}<task>, files of problems and YAML files"
        raise ConfigError(f"no suite is called {suite!r}; {hint}")
    return _read(BUILT_IN / f"{suite}.yaml")


def _one_set(suite: str, name: str, source: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": suite, "sets": {name: {"source": dict(source)}}}


def _read(path: Path) -> dict[str, Any]:
    return {"name": path.stem, **read_mapping(path, "a suite is a mapping of fields")}


def _override(text: str) -> tuple[str, Any]:
    field, equals, value = text.partition("=")
    if not equals or not field:
        raise ConfigError(f"{text!r}: an override of a suite is written field=value")
    try:
        return field, yaml.safe_load(value)
    except NOT_YAML:
        raise ConfigError(f"{field}: {value!r} is not a YAML value") from None
