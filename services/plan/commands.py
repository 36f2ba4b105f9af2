"""The verb `gmpo plan`."""

from __future__ import annotations

import json as jsons
from pathlib import Path
from typing import Annotated

import typer

from actors.errors import ConfigError, ModelError
from actors.modeling.config import TinyPolicy
from services.config import Recipe, load_recipe
from services.plan import shapes
from services.plan.estimate import Machine
from services.plan.layout import choose
from services.plan.parts import GIB
from services.plan.report import as_json, show
from services.plan.shapes import Shape
from services.telemetry.atomic import write_atomically
from services.telemetry.console import screen

PAPER = Path(__file__).with_name("paper.yaml")
"""The recipe by which a model without one is sized."""


def plan(
    model: Annotated[str, typer.Argument(help="Recipe, model directory, or the name of a published model.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="section.field=value, as often as needed.")] = None,
    gpus: Annotated[int, typer.Option(min=0, max=1024, help="GPUs in all; 0: everything runs on CPUs.")] = 0,
    gpu_gib: Annotated[float, typer.Option(min=1, help="Memory of one GPU, in GiB.")] = 80,
    gpus_per_node: Annotated[int, typer.Option(min=1, help="GPUs of one node.")] = 8,
    json: Annotated[Path | None, typer.Option("--json", help="File for the plan as JSON.")] = None,
) -> None:
    """Say what memory each pool takes and whether it fits, and choose a layout for the GPUs; status 1 if nothing fits. Starts nothing."""
    recipe, name = _recipe(model, overrides or [])
    shape = _shape(recipe)
    if shape.max_positions is not None and recipe.max_model_len > shape.max_positions:
        longest = f"together {recipe.max_model_len} tokens, and the model is built for {shape.max_positions}"
        raise ConfigError(f"prompts.max_tokens, generation.max_tokens: {longest}")
    machine = Machine(gpus, gpu_gib * GIB, gpus_per_node)
    layout = choose(recipe, shape, machine)
    show(name, layout, screen())
    if json is not None:
        try:
            write_atomically(json, jsons.dumps(as_json(name, layout), indent=2) + "\n")
        except OSError as error:
            raise ConfigError(f"{json}: {error.strerror}") from None
    if not layout.estimate.fits:
        raise typer.Exit(1)


def _recipe(model: str, overrides: list[str]) -> tuple[Recipe, str]:
    """(recipe, what to call it)."""
    path = Path(model)
    if path.is_file():
        return load_recipe(path, overrides), str(path)
    if path.is_dir():
        return load_recipe(PAPER, [f"policy.path={jsons.dumps(model)}", *overrides]), str(path)
    if found := shapes.published(model):
        return load_recipe(PAPER, [f"policy.path={found[0]}", *overrides]), found[0]
    names = ", ".join(shapes.PUBLISHED)
    raise ModelError(f"{model}: neither a recipe nor a model's directory, and not one of the models whose sizes are known: {names}")


def _shape(recipe: Recipe) -> Shape:
    policy = recipe.policy
    if isinstance(policy, TinyPolicy):
        return shapes.of_tiny(policy)
    if Path(policy.path).is_dir():
        return shapes.of_directory(Path(policy.path))
    if found := shapes.published(policy.path):
        return found[1]
    raise ModelError(f"policy.path: {policy.path} is no directory here, and not one of {', '.join(shapes.PUBLISHED)}")
