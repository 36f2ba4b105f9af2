"""The verb `gmpo evaluate`. Heavy imports wait until it is asked for."""

from __future__ import annotations

import asyncio
import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from services.telemetry.console import screen

if TYPE_CHECKING:
    from services.config import Recipe
    from services.evaluation.results import Result, Summary

KEY_VARIABLE = "GMPO_API_KEY"


def evaluate(
    run: Annotated[Path, typer.Argument(help="Run directory.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="field=value of the suite, name=... among them.")] = None,
    suite: Annotated[str, typer.Option(help="A named suite, reasoning_gym/<task>, a file of problems, or a YAML file.")] = "held_out",
    policy: Annotated[str, typer.Option(help="policy, policy@best or policy@step-N.")] = "policy",
    url: Annotated[str | None, typer.Option(help=f"Root of the endpoint; its key is in {KEY_VARIABLE}. None: one is started.")] = None,
    data: Annotated[Path, typer.Option(envvar="GMPO_EVAL_DATA", help="Folder for a suite's relative paths.")] = Path("."),
    concurrency: Annotated[int, typer.Option(min=1, help="Problems under way at once.")] = 16,
) -> None:
    """Evaluate a version of a run on a suite, or go on with an evaluation that was interrupted: it is the same command."""
    from services.config import load_recipe
    from services.evaluation.suites import check, load_suite
    from services.training.rundir import recipe_of

    chosen = load_suite(suite, overrides or [])
    recipe = load_recipe(recipe_of(run))
    check(chosen, recipe, data)
    from services.evaluation.ask import Asker  # this and the next take seconds, which a mistyped suite need not wait for
    from services.evaluation.evaluate import Place
    from services.evaluation.evaluate import evaluate as evaluated

    out = screen()

    async def ask(root: str, key: str | None) -> Result:
        async with Asker(root, key) as asker:
            return await evaluated(Place(run, data, concurrency), chosen, policy, asker, lambda text: out.print(text, markup=False))

    with ExitStack() as undo:
        root, key = (url, os.environ.get(KEY_VARIABLE)) if url else _started(run, recipe, undo)
        result = asyncio.run(ask(root, key))
    out.print(table(result))


def table(result: Result) -> Table:
    """The sets of a result, and their mean where there are several: a line for each k, in percent. Fits 80 columns."""
    title = f"{result.suite}, policy@step-{result.step} ({result.weights[:12]})"
    found = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    found.add_column("set", no_wrap=True)
    for head in ("problems", "pass@k", "share", "95 %", "cut off", "ungraded", "tokens"):
        found.add_column(head, justify="right", no_wrap=True)
    for name, summary in result.sets.items():
        _add(found, name, summary)
    if len(result.sets) > 1:
        _add(found, "mean of sets", result.overall, style="bold")
    return found


def _add(found: Table, name: str, summary: Summary, style: str | None = None) -> None:
    rest = f"{100 * summary.truncated:.1f} %", f"{summary.ungraded:,}", f"{summary.length:,.0f}"
    for number, (k, one) in enumerate(summary.pass_at.items()):
        about, after = ((name, f"{summary.problems:,}"), rest) if number == 0 else (("", ""), ())
        interval = f"{100 * one.low:.1f} to {100 * one.high:.1f}"
        found.add_row(*about, f"pass@{k}", f"{100 * one.value:.1f}", interval, *after, style=style)


def _started(run: Path, recipe: Recipe, undo: ExitStack) -> tuple[str, str | None]:
    """(url, key) of an endpoint of this run that ends with the stack."""
    from services.policy.endpoint import serve_run

    screen().print("starting the endpoint ...")
    endpoint = undo.enter_context(serve_run(run, recipe.serve.model_copy(update={"port": 0})))
    return endpoint.url, endpoint.key or os.environ.get(KEY_VARIABLE)
