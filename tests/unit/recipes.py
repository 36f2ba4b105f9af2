"""Recipes for tests: the tiny one that ships, with overrides."""

from __future__ import annotations

from pathlib import Path

from services.config import Recipe, load_recipe

TINY = Path(__file__).parents[2] / "deploy" / "recipes" / "tiny.yaml"


def tiny_recipe(*overrides: str) -> Recipe:
    """The tiny recipe with `section.field=value` overrides."""
    return load_recipe(TINY, overrides)
