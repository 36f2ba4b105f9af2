"""The account of a run: what became of its prompts, and whether its history and its recorded rollouts keep every promise."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from actors.errors import ConfigError, DataError
from actors.records import read_ordinals, records
from actors.replay.audit import Account, Audit, audit
from actors.replay.history import read
from services.config import load_recipe
from services.telemetry.atomic import write_atomically
from services.training.rundir import recipe_of

LEDGER, ROLLOUTS = "ledger.jsonl", "rollouts"


def audit_run(run_dir: Path) -> tuple[Audit, tuple[str, ...]]:
    """The audit of a run's history, and all violations: those of the history, then those of the recorded rollouts.

    ConfigError if there is no such run, DataError if it has no history or one that is not made of JSON lines.
    """
    recipe = load_recipe(recipe_of(run_dir))
    history = run_dir / LEDGER
    if not history.exists():
        raise DataError(f"{history}: the run has not begun")
    try:
        found = audit(read(history), max_staleness=recipe.replay.max_staleness, steps=recipe.run.steps)
    except ValueError as error:
        raise DataError(f"{history}: a line is not JSON: {error}") from None
    return found, (*found.violations, *_unlike(found.trained, run_dir / ROLLOUTS))


def show(found: Audit, violations: tuple[str, ...], out: Console) -> None:
    """Print the account as a table, then each violation on a line."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    for name, figure in _lines(found.account):
        table.add_row(name, figure)
    out.print(table)
    for violation in violations:
        out.print(violation, markup=False)
    out.print("no rule is broken" if not violations else f"broken rules: {len(violations)}", markup=False)


def write(found: Audit, violations: tuple[str, ...], path: Path) -> None:
    """Write the same as JSON: the account's fields, `finished`, `violations`."""
    content = {**asdict(found.account), "finished": found.finished, "violations": list(violations)}
    try:
        write_atomically(path, json.dumps(content, indent=2) + "\n")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None


def _unlike(trained: Mapping[int, tuple[int, ...]], directory: Path) -> Iterator[str]:
    """Recorded steps that hold other prompts than were trained on. A step that a restart undid is judged when it is done again."""
    for step, path in records(directory).items():
        if step not in trained:
            continue
        try:
            recorded = read_ordinals(path)
        except DataError as error:
            yield str(error)
            continue
        if sorted(recorded) != sorted(trained[step]):
            yield f"{path}: holds prompts {list(recorded)}, and step {step} was trained on {list(trained[step])}"


def _lines(account: Account) -> Iterator[tuple[str, str]]:
    plain: dict[str, Any] = asdict(account)
    for state, count in plain.pop("prompts").items():
        yield f"prompts {state}", f"{count:,}"
        if state == "dropped":
            yield from ((f"  {reason}", f"{dropped:,}") for reason, dropped in account.dropped.items())
    del plain["dropped"]
    for name, figure in plain.items():
        yield name.replace("_", " "), "" if figure is None else f"{figure:,}"
