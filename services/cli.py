"""The command line: one verb per thing a person does with a run. Errors that the person can mend are one message and exit status 2."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from actors.errors import GmpoError
from services.bench import commands as benchmarks
from services.compare import commands as comparisons
from services.config import dump, load_recipe
from services.evaluation import commands as evaluations
from services.export import commands as exports
from services.plan import commands as plans
from services.policy import commands as policies
from services.study import commands as studies
from services.telemetry.console import screen

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
bench = typer.Typer(no_args_is_help=True, help="Measure this project against what one would write without it.")
app.add_typer(bench, name="bench")
policy = typer.Typer(no_args_is_help=True, help="Say which version of a run `policy` means, keep versions, make API keys.")
app.add_typer(policy, name="policy")

RecipePath = Annotated[Path, typer.Argument(help="Recipe, a YAML file.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="section.field=value, as often as needed.")]
RunPath = Annotated[Path, typer.Argument(help="Run directory.")]


def verb(function: Callable[..., None], group: typer.Typer = app) -> Callable[..., None]:
    """Register a verb; its errors become messages and their exit status."""

    @group.command(name=function.__name__.strip("_"))
    @wraps(function)
    def command(*args: Any, **kwargs: Any) -> None:
        try:
            function(*args, **kwargs)
        except GmpoError as error:
            screen(stderr=True).print(f"{type(error).__name__}: {error}", markup=False, highlight=False, soft_wrap=True)
            raise typer.Exit(error.status) from None

    return command


@verb
def config(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Print a recipe with all defaults filled in, or name each bad field."""
    screen().print(dump(load_recipe(recipe, overrides or [])), markup=False, highlight=False, soft_wrap=True, end="")


@verb
def warmup(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Make the recipe's tiny policy and teach it, unless it is cached."""
    loaded = load_recipe(recipe, overrides or [])  # before the imports below, which take seconds
    from services.training.warmup import require_tiny, warm_policy

    out = screen()
    require_tiny(loaded)
    out.print(str(warm_policy(loaded, lambda text: out.print(text, markup=False))), markup=False, soft_wrap=True)


@verb
def train(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Run a recipe, or go on with a run that was interrupted: it is the same command."""
    loaded = load_recipe(recipe, overrides or [])  # before the import below, which takes seconds
    from services.training.train import train as run

    directory = run(loaded)
    screen().print(f"run directory: {directory}", markup=False, soft_wrap=True)


@verb
def replay(
    run: RunPath,
    objectives: Annotated[
        list[str] | None, typer.Argument(help="Types, or mappings such as '{type: gmpo, clip: none}'; none: the run's own.")
    ] = None,
) -> None:
    """Train again on what a run recorded, without engines: with its own objective to the same weights, or with others on the same data."""
    from services.training.replay import replay as again
    from services.training.replay import wanted

    out = screen()
    for objective in wanted(objectives or []):
        found = again(run, objective, lambda text: out.print(text, markup=False, highlight=False))
        out.print(found.verdict, markup=False, highlight=False, soft_wrap=True)
        if found.differs_at is not None:
            raise typer.Exit(1)


@verb
def stop(
    run: RunPath,
    here: Annotated[bool, typer.Option("--here", help="Only if it is driven by this machine.")] = False,
    resubmit: Annotated[bool, typer.Option("--resubmit", help="It ends with status 75, by which it is tried again.")] = False,
) -> None:
    """Ask a run to checkpoint and end."""
    from services.training.rundir import request_stop

    holder = request_stop(run, here=here, resubmit=resubmit)
    screen().print(f"asked {holder} to checkpoint and end", markup=False, highlight=False)


@verb
def report(run: RunPath) -> None:
    """Write the run's report.html again."""
    from services.telemetry.report import write_report
    from services.training.rundir import recipe_of

    recipe_of(run)
    screen().print(str(write_report(run)), markup=False, soft_wrap=True)


@verb
def ledger(
    run: RunPath,
    json: Annotated[Path | None, typer.Option("--json", help="File for the account as JSON.")] = None,
) -> None:
    """Print what became of every prompt of a run; status 1, and each broken rule on a line, if its history breaks any."""
    from services.ledger import audit_run, show, write

    found, violations = audit_run(run)
    show(found, violations, screen())
    if json is not None:
        write(found, violations, json)
    if violations:
        raise typer.Exit(1)


verb(policies.serve)
verb(policies.query)
verb(evaluations.evaluate)
verb(comparisons.compare)
verb(exports.export)
verb(plans.plan)
verb(studies.study)
for function in (policies.list_, policies.promote, policies.rollback, policies.follow, policies.pin, policies.unpin, policies.key):
    verb(function, policy)
verb(benchmarks.logprobs, bench)
verb(benchmarks.learner, bench)
verb(benchmarks.generation, bench)
verb(benchmarks.queue, bench)
verb(benchmarks.weights, bench)
verb(benchmarks.endpoint, bench)
verb(benchmarks.pipeline, bench)
verb(benchmarks.whole, bench)


def main() -> None:
    """Entry point of `gmpo` and of `python -m services.cli`."""
    app(prog_name="gmpo")


if __name__ == "__main__":
    main()
