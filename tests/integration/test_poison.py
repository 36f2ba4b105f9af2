"""A prompt that kills every process that works on it, among others that do no harm: on real actors, through a stage and its pool."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import ray

from actors.errors import PoisonedPrompt
from actors.types import Prompt
from services.training.pool import Member, Pool
from services.training.stages import Stages

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

POISON = 3


class Frail:
    """An actor whose process does not survive one prompt."""

    async def ready(self) -> None:
        """Up."""

    async def work(self, prompt: Prompt) -> tuple[int, str]:
        """What a stage gives: metadata and payload."""
        if prompt.ordinal == POISON:
            os._exit(1)
        await asyncio.sleep(0.2)  # so that others are under way beside the poison
        return prompt.ordinal, "payload"


@pytest.fixture
def cluster() -> Iterator[None]:
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, configure_logging=False)
    yield
    ray.shutdown()


async def through(prompts: list[Prompt], most_deaths: int) -> list[Any]:
    """What comes of these prompts, all sent at once through one stage of two actors."""

    async def wake(member: Member) -> None:
        await member.handle.ready.remote()

    actors: list[Any] = [ray.remote(Frail).options(num_cpus=0, max_concurrency=100, max_restarts=-1).remote() for _ in range(2)]
    pool, stages = Pool(actors, wake=wake), Stages(most_deaths)
    await pool.start()
    watching = asyncio.create_task(pool.watch(every_s=1.0))

    def call(prompt: Prompt) -> Any:
        return stages.run(prompt, pool, lambda actor: actor.work.options(num_returns=2).remote(prompt))

    found = await asyncio.gather(*map(call, prompts), return_exceptions=True)
    watching.cancel()
    for actor in actors:
        ray.kill(actor)
    return [one[0] if isinstance(one, tuple) else one for one in found]


def test_a_prompt_that_kills_its_workers_is_left_out_and_its_neighbours_come_through(cluster: None) -> None:
    prompts = [Prompt(ordinal, "math", np.zeros(1, dtype=np.int32), "1", "", f"file#{ordinal}") for ordinal in range(8)]
    found = asyncio.run(asyncio.wait_for(through(prompts, most_deaths=3), 120))
    poisoned = found.pop(POISON)
    assert isinstance(poisoned, PoisonedPrompt) and f"prompt {POISON}" in str(poisoned)
    assert found == [ordinal for ordinal in range(8) if ordinal != POISON]
