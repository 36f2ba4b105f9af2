"""Actors of the test's own event loop, called as Ray calls them."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any


class Method:
    """A method as Ray calls it: references among its arguments are awaited first, results are references."""

    def __init__(self, function: Callable[..., Any], returns: int = 1) -> None:
        self._function, self._returns = function, returns

    def options(self, *, num_returns: int = 1, **_: Any) -> Method:
        return Method(self._function, num_returns)

    def remote(self, *arguments: Any, **named: Any) -> Any:
        call = asyncio.ensure_future(self._call(arguments, named))
        if self._returns == 1:
            return call
        return [asyncio.ensure_future(_part(call, index)) for index in range(self._returns)]

    async def _call(self, arguments: Sequence[Any], named: Mapping[str, Any]) -> Any:
        result = self._function(*[await one if isinstance(one, asyncio.Future) else one for one in arguments], **named)
        return await result if inspect.isawaitable(result) else result


async def _part(call: asyncio.Future[Any], index: int) -> Any:
    return (await call)[index]


class Handle:
    """An actor."""

    def __init__(self, target: Any) -> None:
        self._target = target

    def __getattr__(self, name: str) -> Method:
        if name == "__ray_call__" and not hasattr(self._target, name):  # every actor of Ray's has it
            return Method(lambda call: (0, "here"))
        return Method(getattr(self._target, name))
