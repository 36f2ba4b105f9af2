"""One stage of a prompt's way, tried again where a process dies under it.

A prompt under which several processes died is taken for the cause and given up as poisoned. So that no other is blamed with it, prompts
go one at a time where one more death would make them the cause; once it is found, the others are free of suspicion.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from actors.errors import EngineError, PoisonedPrompt
from actors.generation.spec import Sampling
from actors.types import Prompt
from services.training.pool import Member, Pool

Call = Callable[[Any], tuple[Any, Any]]
"""Starts the stage on an actor: (reference to metadata, reference to payload)."""


class Stages:
    """Runs stages; `most_deaths` processes may die under one prompt."""

    def __init__(self, most_deaths: int) -> None:
        self._most_deaths = most_deaths
        self._deaths: Counter[str] = Counter()
        self._alone = asyncio.Lock()

    async def run(self, prompt: Prompt, pool: Pool, call: Call, *, on: Member | None = None) -> tuple[Any, Any]:
        """(metadata, reference to the payload) of one stage, first tried on member `on` if it is given.

        Raises PoisonedPrompt; ObjectLostError where the input of the stage is gone; whatever else the stage itself raises.
        """
        while True:
            async with self._turn(prompt), pool.least_loaded(on) as member:
                deaths = member.deaths
                meta, payload = call(member.handle)
                try:
                    found = await meta
                except asyncio.CancelledError:
                    ray.cancel(meta)
                    raise
                except (RayActorError, RayTaskError) as error:
                    _raise_unless_the_process_may_be_dead(error)
                    if await pool.died(member, deaths):
                        self._count(prompt)
                else:
                    self._deaths.pop(_name(prompt), None)
                    return found, payload

    @asynccontextmanager
    async def _turn(self, prompt: Prompt) -> AsyncIterator[None]:
        if self._deaths[_name(prompt)] < max(1, self._most_deaths - 1):
            yield
            return
        async with self._alone:
            yield

    def _count(self, prompt: Prompt) -> None:
        """A process died under this prompt."""
        self._deaths[_name(prompt)] += 1
        if self._deaths[_name(prompt)] >= self._most_deaths:
            self._deaths.clear()
            raise PoisonedPrompt(f"{self._most_deaths} processes died under prompt {prompt.ordinal} ({prompt.row})")


def generation(prompt: Prompt, seed: int, sampling: Sampling | None = None) -> Call:
    """The first stage: the engine's answer to a prompt under the run's seed, sampled as in training unless said otherwise."""
    return lambda engine: engine.generate.options(num_returns=2).remote(prompt, seed, sampling)


def _raise_unless_the_process_may_be_dead(error: RayActorError | RayTaskError) -> None:
    """An engine that says that it failed may be dead in a living process."""
    if isinstance(error, RayTaskError) and not isinstance(error.cause, EngineError):
        raise error


def _name(prompt: Prompt) -> str:
    return f"{prompt.row}/{prompt.ordinal}"
