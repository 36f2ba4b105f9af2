"""The verbs about a run's policy: serve it, ask it, and say which version it is. Imports are in the functions: a verb starts quickly."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from services.config import load_recipe
from services.policy.keys import Scope
from services.telemetry.console import screen

if TYPE_CHECKING:
    from services.policy.orders import Order

RunPath = Annotated[Path, typer.Argument(help="Run directory.")]
Place = Annotated[str, typer.Argument(help="Run directory, or the URL of an endpoint.")]
Step = Annotated[int, typer.Argument(min=0, help="Step of the version.")]
Secret = Annotated[str | None, typer.Option("--key", envvar="GMPO_API_KEY", help="API key of the endpoint.")]


def serve(
    run: RunPath, overrides: Annotated[list[str] | None, typer.Argument(help="serve.field=value, as often as needed.")] = None
) -> None:
    """Answer over HTTP with any version of a run, until Ctrl-C. Overrides are of the run's own recipe: serve.port=8001."""
    from services.policy.endpoint import Endpoint, serve_until_interrupted
    from services.training.rundir import policies_of, recipe_of

    out = screen()
    recipe = load_recipe(recipe_of(run), overrides or [])

    def tell(endpoint: Endpoint) -> None:
        lines = [f"answering at {endpoint.url}/v1"]
        if endpoint.key is not None and recipe.serve.keys_file is None:
            lines += [f"page:  {endpoint.url}/#key={endpoint.key}", f"key:   export GMPO_API_KEY={endpoint.key}"]
        for line in lines:
            out.print(line, markup=False, highlight=False, soft_wrap=True)

    out.print("starting the endpoint ...")
    serve_until_interrupted(run, recipe.serve, tell, policies=policies_of(run, recipe))


def query(
    question: Annotated[str, typer.Argument(help="What to ask.")],
    url: Annotated[str, typer.Option(help="Root of the endpoint.")] = "http://127.0.0.1:8000",
    key: Secret = None,
    model: Annotated[str, typer.Option(help="policy, policy@best, or policy@step-N.")] = "policy",
    max_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.")] = 256,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
) -> None:
    """Ask a served policy one question."""
    from services.policy.client import query as ask

    answer = ask(url, question, key=key, model=model, max_tokens=max_tokens, temperature=temperature)
    out = screen()
    out.print(answer.text, markup=False, highlight=False, soft_wrap=True)
    out.print(f"{answer.model}, step {answer.step}, weights {answer.weights}, {answer.seconds:.2f} s", style="dim", highlight=False)


def list_(place: Place, key: Secret = None) -> None:
    """Print the versions of a run and how good each is."""
    from services.policy.operate import listed, show

    screen().print(show(listed(place, key)))


def promote(place: Place, step: Step, key: Secret = None) -> None:
    """Let `policy` mean this version from now on."""
    _order(place, "promote", step, key)


def rollback(place: Place, key: Secret = None) -> None:
    """Let `policy` mean the newest good version older than what it means now."""
    _order(place, "rollback", None, key)


def follow(place: Place, key: Secret = None) -> None:
    """Let `policy` mean the newest good version, whatever comes."""
    _order(place, "follow", None, key)


def pin(place: Place, step: Step, key: Secret = None) -> None:
    """Keep this version, also when it is old."""
    _order(place, "pin", step, key)


def unpin(place: Place, step: Step, key: Secret = None) -> None:
    """Let this version be deleted when it is old."""
    _order(place, "unpin", step, key)


def key(
    file: Annotated[Path, typer.Argument(help="File of keys, as serve.keys_file names it; made if there is none.")],
    name: Annotated[str, typer.Argument(help="Whose key it is.")],
    scope: Annotated[Scope, typer.Option(help="query asks; admin also gives orders.")] = Scope.QUERY,
    days: Annotated[int | None, typer.Option(min=1, help="Days until it expires; by default never.")] = None,
) -> None:
    """Make an API key: print it, once, and add its hash to a file."""
    from services.policy.keys import add, make

    secret, made = make(name, scope, expires=datetime.now(UTC) + timedelta(days=days) if days else None)
    add(file, made)
    screen().print(secret, markup=False, highlight=False, soft_wrap=True)


def _order(place: str, order: Order, step: int | None, key: str | None) -> None:
    from services.policy import operate

    screen().print(operate.show(operate.order(place, order, step, key)))
