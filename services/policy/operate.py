"""What an operator does about versions, in a run directory itself or through an endpoint of it.

The same orders either way: an endpoint writes them into the run directory, and every endpoint of the run follows what is there.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.table import Table

from actors.errors import PolicyVersionError, UsageError
from services.config import load_recipe
from services.policy.catalogue import Catalogue
from services.policy.lookout import Lookout
from services.policy.orders import Order, Orders, read, write
from services.training.rundir import policies_of, recipe_of


def order(place: str, order: Order, step: int | None, key: str | None) -> dict[str, Any]:
    """Give an order to a run (its directory, or the URL of an endpoint) and return what GET /v1/policies then says.

    UsageError where the order cannot be followed.
    """
    if place.startswith(("http://", "https://")):
        return _ask(place, f"/{order}", {} if step is None else {"step": step}, key)
    lookout = _lookout(place)
    serving = lookout.wanted
    changes: dict[Order, Callable[[Orders], Orders]] = {
        "promote": lambda orders: orders.promote(_known(lookout, step)),
        "pin": lambda orders: orders.pin(_known(lookout, step)),
        "unpin": lambda orders: orders.unpin(step or 0),
        "rollback": lambda orders: orders.rollback(serving or 0, lookout.good),
        "follow": lambda orders: orders.follow(),
    }
    try:
        write(lookout.policies, changes[order](read(lookout.policies)))
    except PolicyVersionError as error:
        raise UsageError(str(error)) from None
    return listed(place, key)


def listed(place: str, key: str | None) -> dict[str, Any]:
    """The versions of a run, as GET /v1/policies says them; in a run directory nobody knows which are in memory."""
    if place.startswith(("http://", "https://")):
        return _ask(place, "", None, key)
    lookout = _lookout(place)
    return lookout.describe(lookout.wanted)


def show(policies: dict[str, Any]) -> Table:
    """The versions as a table for the console."""
    table = Table("version", "weights", "written", "policy", "pinned", "metrics", box=None)
    for row in policies["data"]:
        means = [name for name in ("policy", "best") if policies[name] == row["step"]]
        metrics = "  ".join(f"{name} {value:.3f}" for name, value in sorted(row["metrics"].items()))
        told = f"refused: {row['refused']}" if row["refused"] else metrics
        written = (row["created"] or "")[:19].replace("T", " ")
        table.add_row(row["id"], (row["weights"] or "")[:12], written, ", ".join(means), "pinned" if row["pinned"] else "", told)
    return table


def _known(lookout: Lookout, step: int | None) -> int:
    if step not in lookout.manifests:
        raise UsageError(f"there is no policy@step-{step}")
    return step


def _lookout(place: str) -> Lookout:
    run_dir = Path(place)
    recipe = load_recipe(recipe_of(run_dir))
    policies = policies_of(run_dir, recipe)
    lookout = Lookout(policies, run_dir, recipe.serve.best_by, Catalogue(policies))
    lookout.look()
    if lookout.trouble:
        raise UsageError(lookout.trouble)
    return lookout


def _ask(url: str, path: str, body: dict[str, int] | None, key: str | None) -> dict[str, Any]:
    """GET, or POST with a body."""
    import httpx

    headers = {"authorization": f"Bearer {key}"} if key else {}
    try:
        response = httpx.request(
            "GET" if body is None else "POST", f"{url.rstrip('/')}/v1/policies{path}", json=body, headers=headers, timeout=120
        )
        answer = response.json()
    except (httpx.HTTPError, ValueError) as error:
        raise UsageError(f"{url}: no answer ({error})") from None
    if response.is_error:
        raise UsageError(f"{url}: {answer['error']['message']}")
    found: dict[str, Any] = answer
    return found
