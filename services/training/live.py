"""The endpoint beside a training run: up once the run has its first version, down before the run ends, and never in its way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from actors.errors import GmpoError
from services.config import Recipe
from services.policy.catalogue import Catalogue
from services.policy.endpoint import serve_run
from services.training.rundir import RunDirectory

POLL_S = 1.0


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
        tell(f"answering at {endpoint.url}/v1" + (f", page {endpoint.url}/#key={endpoint.key}" if endpoint.key else ""))
        await asyncio.Event().wait()
    finally:
        await asyncio.to_thread(endpoint.close)
