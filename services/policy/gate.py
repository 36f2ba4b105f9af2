"""What stands between HTTP and vLLM's OpenAI application: an allow-list, and the version on every answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from actors.weights.version import Manifest

STEP_HEADER, WEIGHTS_HEADER, AGE_HEADER = "x-gmpo-step", "x-gmpo-weights", "x-gmpo-age-seconds"
ENGINE_PATHS = frozenset({"/v1/completions", "/v1/chat/completions", "/v1/models"})

Health = Callable[[], Awaitable[tuple[int, Mapping[str, Any]]]]
"""Gives the status code and the body of /health."""


def version_headers(manifest: Manifest) -> dict[str, str]:
    """What an answer says about the weights that produced it; the age counts whole seconds since they were written."""
    age = datetime.now(UTC) - manifest.created
    return {STEP_HEADER: str(manifest.step), WEIGHTS_HEADER: manifest.weights_short, AGE_HEADER: str(int(age.total_seconds()))}


class Gate:
    """An ASGI application around vLLM's: paths that are not listed do not exist.

    `receive` is handed on untouched: vLLM awaits it after the body to learn of a disconnect, which ends the generation.
    """

    def __init__(self, engine_app: ASGIApp, manifest: Manifest, health: Health) -> None:
        self.engine_app, self.manifest, self.health = engine_app, manifest, health

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.engine_app(scope, receive, send)
        elif scope["type"] == "http":
            app = self.engine_app if scope["path"] in ENGINE_PATHS else await self._own_answer(scope)
            await app(scope, receive, self._with_version(send))
        else:
            await send({"type": "websocket.close", "code": 1000})

    async def _own_answer(self, scope: Scope) -> JSONResponse:
        if scope["path"] == "/health":
            status, body = await self.health()
            return JSONResponse(body, status)
        message = f"{scope['method']} {scope['path']} does not exist"
        return JSONResponse({"error": {"message": message, "type": "NotFoundError", "param": None, "code": 404}}, 404)

    def _with_version(self, send: Send) -> Send:
        async def send_with_version(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(version_headers(self.manifest))
            await send(message)

        return send_with_version
