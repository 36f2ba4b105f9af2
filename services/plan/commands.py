"""The verb `gmpo plan`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from actors.errors import ConfigError, ModelError
from actors.modeling.config import TinyPolicy
from services.config import Recipe, load_recipe
from services.plan import shapes
from services.plan.answer import answer
from services.plan.document import document
from services.plan.estimate import Machine
from services.plan.layout import choose
from services.plan.parts import GIB
from services.plan.report import show
from services.plan.shapes import Shape
from services.telemetry.atomic import write_atomically
from services.telemetry.console import screen

PAPER = Path(__file__).with_name("paper.yaml")
"""The recipe by which a model without one is sized."""
STDOUT = Path("-")


def plan(
    model: Annotated[str, typer.Argument(help="Recipe, model directory, or the name of a published model.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="section.field=value, as often as needed.")] = None,
    gpus: Annotated[int, typer.Option(min=0, max=1024, help="GPUs in all; 0: everything runs on CPUs.")] = 0,
    gpu_gib: Annotated[float, typer.Option(min=1, help="Memory of one GPU, in GiB.")] = 80,
    gpus_per_node: Annotated[int, typer.Option(min=1, help="GPUs of one node.")] = 8,
    json_file: Annotated[Path | None, typer.Option("--json", help="File for the plan as JSON; -: print that instead.")] = None,
) -> None:
    """Say what memory each pool takes and whether it fits, and choose a layout for the GPUs; status 1 if nothing fits. Starts nothing."""
    recipe, name = _recipe(model, overrides or [])
    shape, note = _shape(recipe)
    machine = Machine(gpus, gpu_gib * GIB, gpus_per_node)
    _check(recipe, shape, machine)
    found = answer(name, note, choose(recipe, shape, machine))
    plain = json.dumps(document(found), indent=2)
    if json_file == STDOUT:
        screen().print(plain, markup=False, highlight=False, soft_wrap=True)
    else:
        show(found, screen())
    if json_file not in (None, STDOUT):
        try:
            write_atomically(json_file, plain + "\n")
        except OSError as error:
            raise ConfigError(f"{json_file}: {error.strerror}") from None
    if not found.layout.estimate.fits:
        raise typer.Exit(1)


def _recipe(model: str, overrides: list[str]) -> tuple[Recipe, str]:
    """(recipe, what to call it)."""
    path = Path(model)
    if path.is_file():
        return load_recipe(path, overrides), str(path)
    if path.is_dir():
        return load_recipe(PAPER, [f"policy.path={json.dumps(model)}", *overrides]), str(path)
    if found := shapes.published(model):
        return load_recipe(PAPER, [f"policy.path={found[0]}", *overrides]), found[0]
    raise ModelError(f"{model}: neither a recipe nor a model's directory, and not one of the models whose sizes are known: {_known()}")


def _shape(recipe: Recipe) -> tuple[Shape, str | None]:
    """(sizes, where they are from if the recipe does not say so plainly)."""
    policy = recipe.policy
    if isinstance(policy, TinyPolicy):
        return shapes.of_tiny(policy), None
    if Path(policy.path).is_dir():
        return shapes.of_directory(Path(policy.path)), None
    if found := shapes.published(policy.path):
        name, shape = found
        return shape, None if name == policy.path else f"policy.path: {policy.path} is no directory here; sizes are those of {name}"
    wanted = "add policy.path=DIRECTORY, or the model it is like, one of"
    raise ModelError(f"policy.path: {policy.path} is no directory here; {wanted} {_known()}")


def _known() -> str:
    return f"{', '.join(shapes.PUBLISHED)}; {shapes.NO_EXPERTS}"


def _check(recipe: Recipe, shape: Shape, machine: Machine) -> None:
    """ConfigError where the model or the nodes cannot do what the recipe says, however much memory there is."""
    if shape.max_positions is not None and recipe.max_model_len > shape.max_positions:
        longest = f"together {recipe.max_model_len} tokens, and the model is built for {shape.max_positions}"
        raise ConfigError(f"prompts.max_tokens, generation.max_tokens: {longest}")
    shared = {"generation.tensor_parallel": recipe.generation.tensor_parallel}
    if recipe.serve.during_training:
        shared["serve.gpus"] = max(1, recipe.serve.gpus)
    for path, gpus in shared.items():
        if not shape.divides_by(gpus):
            heads = f"{shape.heads} attention heads and {shape.kv_heads} of keys and values"
            raise ConfigError(f"{path}: {gpus} GPUs cannot share the model's {heads}")
        if machine.gpus and gpus > machine.gpus_per_node:
            raise ConfigError(f"{path}: an engine's {gpus} GPUs are of one node, and a node has {machine.gpus_per_node} (--gpus-per-node)")
