"""The endpoint beside a training run: up once the run has its first version, down before the run ends, and never in its way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from actors.errors import GmpoError
from services.config import Recipe
from services.evaluation.watch import watch
from services.policy.catalogue import Catalogue
from services.policy.endpoint import Endpoint, serve_run
from services.telemetry.atomic import write_atomically
from services.training.rundir import RunDirectory

POLL_S = 1.0
KEY = "endpoint.key"
"""File in the run directory, while the endpoint is up."""


async def answer_while_training(recipe: Recipe, run: RunDirectory, tell: Callable[[str], None]) -> None:
    """Serve the run's versions until cancelled. What goes wrong here is told, and the run goes on without an endpoint."""
    catalogue = Catalogue(run.policies_url)
    while not await asyncio.to_thread(catalogue.steps):
        await asyncio.sleep(POLL_S)
    config = recipe.serve.model_copy(update={"resident": 1})
    try:
        endpoint = await asyncio.to_thread(serve_run, run.path, config, policies=run.policies_url)
    except GmpoError as error:
        tell(f"the run goes on without an endpoint: {error}")
        return
    try:
        tell(f"answering at {endpoint.url}/v1" + _keep(endpoint, recipe, run.path / KEY))
        if recipe.evaluation.live.every:
            await _evaluate(recipe, run, endpoint, tell)
        await asyncio.Event().wait()
    finally:
        (run.path / KEY).unlink(missing_ok=True)
        await asyncio.to_thread(endpoint.close)


def _keep(endpoint: Endpoint, recipe: Recipe, file: Path) -> str:
    """Where there are no lasting keys, put this endpoint's own into a file of the run's owner: what is told ends up in logs."""
    if endpoint.key is None or recipe.serve.keys_file is not None:
        return ""
    write_atomically(file, endpoint.key, mode=0o600)
    return f", admin key in {file}"


async def _evaluate(recipe: Recipe, run: RunDirectory, endpoint: Endpoint, tell: Callable[[str], None]) -> None:
    """Put every n-th version to the suite; a suite that cannot be asked is told, and the run goes on without."""
    try:
        await watch(run.path, recipe.evaluation.live, url=endpoint.url, key=endpoint.key, notify=tell)
    except Exception as error:  # a full disk, say: neither the run nor the endpoint depends on it
        tell(f"the run goes on without live evaluation: {type(error).__name__}: {error}")
