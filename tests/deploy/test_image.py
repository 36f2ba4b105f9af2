"""The image's recipe: clean to its linters, made of files that exist, from locks that say what runs. deploy/image/check.sh builds it."""

from __future__ import annotations

import fnmatch
import json
import re
import subprocess
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.deploy.tools import ROOT, tool

pytestmark = pytest.mark.deploy

DOCKERFILE = ROOT / "deploy" / "Dockerfile"
IMAGE = ROOT / "deploy" / "image"
DEVICES = ("cpu", "gpu")
ONLY_CUDA = {"torchaudio", "torchcodec", "torchvision", "triton"}
"""What the CPU lock leaves out, since it is built for CUDA alone."""


def instructions(word: str) -> list[str]:
    """What follows each instruction of a kind, continuation lines joined."""
    text = DOCKERFILE.read_text().replace("\\\n", " ")
    return [line.removeprefix(word).strip() for line in text.splitlines() if line.startswith(word + " ")]


def locked(device: str) -> dict[str, str]:
    """Versions of a lock, by normal name."""
    lines = (ROOT / "deploy" / f"requirements-{device}.txt").read_text().splitlines()
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pins}


def left_out() -> set[str]:
    """Packages of the CPU lock that are not for the image."""
    return {canonicalize_name(line) for line in (IMAGE / "not-in-image.txt").read_text().splitlines() if not line.startswith("#")}


def needed(*extras: str) -> set[str]:
    """Every package that the installed project needs with these extras, itself not among them."""
    seen: set[tuple[str, str]] = set()
    waiting = [("gmpo", extra) for extra in ("", *extras)]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        for requirement in map(Requirement, requires(name)):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                waiting += [(canonicalize_name(requirement.name), wanted) for wanted in ("", *requirement.extras)]
    return {name for name, _ in seen} - {"gmpo"}


def requires(name: str) -> list[str]:
    """What an installed package requires; nothing of one that is not installed here."""
    try:
        return distribution(name).requires or []
    except PackageNotFoundError:
        return []


def reaches_the_builder(path: str) -> bool:
    """Whether .dockerignore lets a file or directory through: the last pattern that fits it, or a directory over it, decides."""
    through = True
    parts = Path(path).parts
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = line.removeprefix("!").removeprefix("**/")
        above = ["/".join(parts[:end]) for end in range(1, len(parts) + 1)]
        places = parts if "**/" in line else above
        if any(fnmatch.fnmatchcase(place, pattern) for place in places):
            through = line.startswith("!")
    return through


def test_hadolint_has_nothing_to_say() -> None:
    found = subprocess.run([tool("hadolint"), str(DOCKERFILE)], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr


def test_checkov_has_nothing_to_say() -> None:
    command = [tool("checkov"), "--framework", "dockerfile", "--file", str(DOCKERFILE), "--skip-download", "--output", "json"]
    found = subprocess.run(command, capture_output=True, text=True)
    report = json.loads(found.stdout)
    assert report["summary"]["passed"] > 50
    assert [check["check_id"] for check in report["results"]["failed_checks"]] == []


def test_every_copied_path_exists_and_reaches_the_builder() -> None:
    copied = [line for line in instructions("COPY") if "--from" not in line]
    sources = [word for line in copied for word in line.split()[:-1] if not word.startswith("--")]
    assert len(sources) > 10
    for source in sources:
        for device in DEVICES:
            path = source.replace("${DEVICE}", device)
            assert (ROOT / path).exists() and reaches_the_builder(path), path


@pytest.mark.parametrize(
    "path",
    [
        ".git/config",
        ".venv/bin/python",
        "runs/demo/keys.json",
        "tests/ports.py",
        "helm/gmpo/values.yaml",
        ".env",
        "actors/__pycache__/x.pyc",
    ],
)
def test_nothing_else_reaches_the_builder(path: str) -> None:
    assert not reaches_the_builder(path)


def test_what_the_image_leaves_out_is_what_only_tests_need() -> None:
    runs = needed("cpu", "code", "trackers")
    assert set(locked("cpu")) - runs == left_out()
    assert locked("cpu").keys() >= runs - ONLY_CUDA - {"py-spy"}  # Ray's dashboard can do without it


def test_both_locks_hold_what_the_project_names_exactly() -> None:
    for device in DEVICES:
        versions = locked(device)
        pinned = [requirement for line in requires("gmpo") if "==" in str((requirement := Requirement(line)).specifier)]
        for requirement in pinned:
            if requirement.marker is None or requirement.marker.evaluate({"extra": device}):
                version = versions[canonicalize_name(requirement.name)]
                assert requirement.specifier.contains(version), f"{device}: {requirement}"


def test_the_last_word_is_a_plain_user_and_no_tag_moves() -> None:
    user = instructions("USER")[-1]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)  # by number: runAsNonRoot asks for it
    assert "latest" not in DOCKERFILE.read_text()
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version and f"VERSION={version[1]}" in instructions("ARG")


def test_no_secret_and_no_index_is_named() -> None:
    named = " ".join(instructions("ARG") + instructions("ENV"))
    assert not re.search(r"(?i)passw|secret|token|api_?key|credential", named)
    for file in (DOCKERFILE, *IMAGE.iterdir()):
        assert not re.search(r"https?://(?!127\.0\.0\.1)", file.read_text()), file


@pytest.mark.parametrize("script", sorted(path.name for path in IMAGE.glob("*.sh")))
def test_scripts_are_whole_and_can_be_started(script: str) -> None:
    path = IMAGE / script
    shell = path.read_text().splitlines()[0].removeprefix("#!").removeprefix("/usr/bin/env ")
    assert subprocess.run([shell, "-n", str(path)]).returncode == 0
    assert path.stat().st_mode & 0o111
