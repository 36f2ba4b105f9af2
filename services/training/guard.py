"""Watches over the replay queue from the first call until it closes.

its process dies         -> Ray starts another, which reads the history and waits for what only the driver has: it is given that
it does not answer       -> its process is killed; the rest as above
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from ray.exceptions import RayActorError

from actors.errors import QueueLost
from actors.replay.messages import Belongings
from services.config import HealthConfig
from services.training.pool import AGAIN_S, Process, end_process, process_of


class Guard:
    """Keeps one queue alive; calls under way are made again by Ray."""

    def __init__(self, queue: Any, belongings: Callable[[], Belongings], health: HealthConfig, tell: Callable[[str], None]) -> None:
        self._queue, self._belongings, self._health, self._tell = queue, belongings, health, tell
        self._process: Process | None = None

    async def watch(self) -> None:
        """Until the queue closes."""
        asking = asyncio.create_task(self._ask())
        try:
            await self._mend()
        finally:
            asking.cancel()

    async def _mend(self) -> None:
        """Give the queue what it needs, each time it must begin anew."""
        while True:
            try:
                self._process = await process_of(self._queue)
                await self._queue.closed.options(max_task_retries=0).remote()
                return
            except QueueLost:
                await self._queue.begin_with.remote(self._belongings())
            except RayActorError:
                self._tell("the replay queue died and is rebuilt from its history")
                await asyncio.sleep(AGAIN_S)

    async def _ask(self) -> None:
        """End a process that does not answer: it may be stopped, and no call to it would ever fail."""
        while True:
            await asyncio.sleep(self._health.every_s)
            try:
                async with asyncio.timeout(self._health.answer_s):
                    await self._queue.metrics.remote()
            except TimeoutError:
                self._tell("the replay queue does not answer and is ended")
                await end_process(self._process)
