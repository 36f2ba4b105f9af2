"""README and docs can be followed: links lead somewhere, commands are understood, settings are settings."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
import yaml

from services.cli import app
from services.config import load_recipe, parse_recipe
from services.evaluation.suites import load_suite
from tests.unit.recipes import TINY

ROOT = TINY.parents[2]
README = ROOT / "README.md"
PAGES = [README, ROOT / "SECURITY.md", ROOT / "helm" / "gmpo" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
RECIPES = sorted(TINY.parent.glob("*.yaml"))


def name(path: Path) -> str:
    """A file by its place in the repository."""
    return str(path.relative_to(ROOT))


def blocks(page: Path, language: str = "") -> Iterator[str]:
    """The page's fenced blocks of a language, by default those of none."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    yield from (text for found, text in fenced if found == language)


def anchors(page: Path) -> set[str]:
    """What the page's headings are called in links."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def commands(page: Path) -> Iterator[list[str]]:
    """The words after `gmpo` of each command in the page's blocks."""
    for block in blocks(page):
        for line in re.findall(r"(?:^|^\w.*?-- |^ +-- )(?:gmpo|python -m services\.cli) (.*)$", block, re.MULTILINE):
            yield shlex.split(re.split(r" [|#>]|;", line)[0])


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_to_files_and_headings_that_are_there(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"https?:|mailto:", link):
            continue
        place, _, anchor = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_files_and_targets_of_the_makefile_are_there() -> None:
    text = (ROOT / "Makefile").read_text()
    paths = re.findall(r"\b(?:deploy|docs|tests|services|actors)/[\w./-]+\w", text)
    assert len(paths) > 5
    assert [path for path in paths if not (ROOT / path).exists()] == []
    targets = set(re.findall(r"^([\w-]+):", text, re.MULTILINE))
    named = {target for page in PAGES for block in blocks(page) for target in re.findall(r"^make ([\w-]+)", block, re.MULTILINE)}
    assert named and named <= targets


@pytest.mark.parametrize("page", [page for page in PAGES if any(commands(page))], ids=name)
def test_commands_are_understood(page: Path) -> None:
    for words in commands(page):
        assert [word for word in words if word.startswith("deploy/") and not (ROOT / word).exists()] == []
        command, context, verb = typer.main.get_command(app), None, "gmpo"
        while hasattr(command, "commands"):
            context = command.make_context(verb, words, parent=context, resilient_parsing=True)
            verb, *words = words
            assert verb in command.commands, (verb, words)
            command = command.commands[verb]
        given = command.make_context(verb, words, parent=context).params
        overrides = given.get("overrides") or []
        if verb == "evaluate":
            load_suite(given["suite"], overrides)
        elif overrides:
            recipe = ROOT / (given.get("recipe") or given.get("model") or "a run's own")
            load_recipe(recipe if recipe.is_file() else TINY, overrides)


def test_overrides_in_the_readmes_text_go_with_every_recipe() -> None:
    prose = re.sub(r"^```.*?^```", "", README.read_text(), flags=re.MULTILINE | re.DOTALL)
    spans = [code for code in re.findall(r"`([^`\n]+)`", prose) if re.match(r"\w+\.[\w.]+=", code)]
    assert len(spans) > 2
    for span in spans:
        for recipe in RECIPES:
            load_recipe(recipe, shlex.split(span))


def test_the_readmes_recipe_is_one_and_its_lines_go_with_others() -> None:
    whole, lines = (yaml.safe_load(block) for block in blocks(README, "yaml"))
    parse_recipe(whole)
    for recipe in (TINY, TINY.with_name("qwen2.5-math-7b.yaml")):
        for field, value in lines["learner"].items():
            load_recipe(recipe, [f"learner.{field}={json.dumps(value)}"])
