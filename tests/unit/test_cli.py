from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from services.cli import app
from services.config import resolved
from tests.unit.recipes import TINY, tiny_recipe

ROOT = Path(__file__).parents[2]
PROMISED_S = 2.0
"""The time in which `gmpo config` answers."""

HEAVY = {"torch", "ray", "vllm", "transformers", "numpy", "pyarrow", "matplotlib"}
WATCHED = f"""
import atexit, sys
atexit.register(lambda: sys.stderr.write("heavy: " + " ".join({HEAVY!r} & sys.modules.keys())))
from services.cli import main
main()
"""
"""`gmpo`, which says at its end what it has loaded of the above."""


def gmpo(*arguments: str | Path) -> Result:
    """A verb, in this process."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def started(*arguments: str | bytes | Path, cwd: Path = ROOT, root: Path | None = None) -> tuple[subprocess.CompletedProcess[str], float]:
    """A verb in a process of its own, and the CPU seconds it took: those do not grow when the machine is busy."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(cwd), "GMPO_RUN_ROOT": str(root or cwd / "runs")}
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_config_prints_the_whole_tree_and_loads_nothing_heavy() -> None:
    done, seconds = started("config", TINY, "run.steps=3", "run.root=/somewhere")
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load(done.stdout) == resolved(tiny_recipe("run.steps=3", "run.root=/somewhere"))
    assert done.stderr == "heavy: "
    assert seconds < PROMISED_S


@pytest.mark.parametrize("verb", ["config", "train", "warmup"])
def test_a_bad_recipe_ends_with_status_2_and_the_path_and_starts_nothing(tmp_path: Path, verb: str) -> None:
    done, seconds = started(verb, TINY, "learner.objective.clip_low=-1", cwd=tmp_path)
    assert done.returncode == 2
    assert "learner.objective.clip_low" in done.stderr and "Traceback" not in done.stderr
    assert done.stderr.endswith("heavy: ")
    assert seconds < PROMISED_S
    assert not list(tmp_path.iterdir())


def test_bytes_that_are_no_text_are_refused_without_a_traceback(tmp_path: Path) -> None:
    for argument in (b"run.name=\xff\xfe", b"run.\xff=1", b"\xff"):
        done, _ = started("config", TINY, argument, cwd=tmp_path)
        assert done.returncode == 2 and "Traceback" not in done.stderr


def leaves(tree: object, prefix: str = "") -> Sequence[str]:
    if not isinstance(tree, dict) or not tree:
        return [prefix]
    return [prefix, *(leaf for key, value in tree.items() for leaf in leaves(value, f"{prefix}.{key}".lstrip(".")))]


paths = st.sampled_from([path for path in leaves(resolved(tiny_recipe())) if path]) | st.text(max_size=12)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates()
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "path", "x"]) | scalars, inner, max_size=3),
).map(lambda value: yaml.dump(value, default_flow_style=True))
overrides = st.builds("{}={}".format, paths, values | st.text(max_size=12)) | st.text(max_size=20)


@settings(max_examples=150)
@given(arguments=st.lists(overrides, max_size=4))
def test_whatever_is_overridden_the_answer_is_a_recipe_or_a_complaint(arguments: list[str]) -> None:
    result = gmpo("config", TINY, *arguments)
    assert result.exit_code in {0, 2}, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)


@settings(max_examples=50)
@given(content=st.binary(max_size=60) | values.map(str.encode))
def test_whatever_a_recipe_file_holds_the_answer_is_a_complaint(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    file = tmp_path_factory.mktemp("fuzz") / "recipe.yaml"
    file.write_bytes(content)
    result = gmpo("config", file)
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)


@pytest.mark.parametrize("arguments", [[], ["config"], ["conquer"], ["config", "--steps", "3"], ["config", "/nowhere/recipe.yaml"]])
def test_a_command_that_cannot_be_understood_is_status_2(arguments: list[str]) -> None:
    assert gmpo(*arguments).exit_code == 2


@pytest.mark.parametrize("verb", ["stop", "report", "serve"])
def test_a_directory_without_a_run_is_named_and_left_alone(tmp_path: Path, verb: str) -> None:
    result = gmpo(verb, tmp_path)
    assert result.exit_code == 2 and f"{tmp_path} holds no run" in result.output
    assert not list(tmp_path.iterdir())


def test_a_complaint_is_printed_as_it_is_on_the_error_stream(tmp_path: Path) -> None:
    """Brackets are no markup, long lines are not broken, and the output stream stays clean for pipes."""
    path = f"run.{'x' * 300}[red]"
    result = gmpo("config", TINY, f"{path}=1")
    assert result.stdout == "" and f"{path}: " in result.stderr
