"""Calls that come one by one go out many at a time: while one is under way the next gather. A call to an actor costs about the same
whether it carries one item or a hundred.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Gathering(Generic[Item, Answer]):
    """`send` takes items in their order and answers as many; each caller gets the answer to its own, or what `send` raised."""

    def __init__(self, send: Callable[[Sequence[Item]], Awaitable[Sequence[Answer]]]) -> None:
        self._send = send
        self._gathered: list[tuple[Item, asyncio.Future[Answer]]] = []
        self._sending: asyncio.Task[None] | None = None

    async def __call__(self, item: Item) -> Answer:
        """Send the item with the next lot."""
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._gathered.append((item, answer))
        if self._sending is None or self._sending.done():
            self._sending = asyncio.create_task(self._send_all())
        return await answer

    async def _send_all(self) -> None:
        while self._gathered:
            lot, self._gathered = self._gathered, []
            try:
                answers = await self._send([item for item, _ in lot])
            except Exception as error:
                for _, waiting in lot:
                    if not waiting.done():
                        waiting.set_exception(error)
                continue
            for (_, waiting), answer in zip(lot, answers, strict=True):
                if not waiting.done():  # its caller may have been cancelled
                    waiting.set_result(answer)
