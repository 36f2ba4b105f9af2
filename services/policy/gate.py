"""What stands before the application: keys, sizes and numbers of requests, and headers on every answer.

A request that is refused here costs next to nothing: its body is not read, and no engine hears of it.

`receive` is handed on one message at a time: the application awaits it after the body to learn of a disconnect, which ends the
generation.
"""

from __future__ import annotations

from collections import Counter
from contextlib import AsyncExitStack

from fastapi import HTTPException
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.policy.config import ServeConfig
from services.policy.keys import Key, KeyRing
from services.policy.keys import Scope as KeyScope

OPEN_PATHS = frozenset({"/", "/health"})
STATIC = "/static/"
ORDERS = "/v1/policies"
LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})
OWN_SITE = frozenset({None, "same-origin", "none"})
ENDING = "gmpo.ending"
"""Key of an ASGI scope: an AsyncExitStack that ends with the request, however it ends."""
BUSY_RETRY_S = 1
TOO_LARGE = "RequestTooLargeError"

ANYONE = Key(name="anyone", scope=KeyScope.ADMIN, sha256="0" * 64)


def error_response(status: int, kind: str, message: str, *, param: str | None = None, retry_after_s: float | None = None) -> JSONResponse:
    """An error as OpenAI's clients read it."""
    headers = {} if retry_after_s is None else {"retry-after": str(max(1, round(retry_after_s)))}
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    return JSONResponse({"error": {"message": message, "type": kind, "param": param, "code": status}}, status, headers)


class Gate:
    """An ASGI application around the endpoint's own."""

    def __init__(self, app: ASGIApp, config: ServeConfig, keys: KeyRing) -> None:
        self._app, self._config, self._keys = app, config, keys
        self._running: Counter[str] = Counter()  # by name of the key

    @property
    def under_way(self) -> int:
        """Requests with a key that have not been answered in full."""
        return self._running.total()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, _with_headers(send))
        else:
            await send({"type": "websocket.close", "code": 1000})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if not path.isprintable():  # a router may read it as another path than this gate does
            await error_response(404, "NotFoundError", "no such path")(scope, receive, send)
            return
        if path in OPEN_PATHS or path.startswith(STATIC):
            await self._app(scope, receive, send)
            return
        wanted = KeyScope.ADMIN if path.startswith(ORDERS) and scope["method"] not in ("GET", "HEAD") else KeyScope.QUERY
        key = self._judge(wanted, Headers(scope=scope))
        if isinstance(key, JSONResponse):
            await key(scope, receive, send)
            return
        self._running[key.name] += 1
        try:
            async with AsyncExitStack() as ending:
                scope[ENDING] = ending
                await self._app(scope, _measured(receive, self._config.limits.body_bytes), send)
        finally:
            self._running[key.name] -= 1

    def _judge(self, wanted: KeyScope, headers: Headers) -> Key | JSONResponse:
        """The key of a request that may go on now, or why it may not."""
        limits = self._config.limits
        if self._config.open and not _from_here(headers):
            return error_response(
                403, "PermissionDeniedError", "an endpoint without keys answers this machine's own programs and its own page"
            )
        key = ANYONE if self._config.open else self._find(headers)
        if key is None:
            return error_response(401, "AuthenticationError", "an API key is needed: Authorization: Bearer KEY")
        if not key.allows(wanted):
            return error_response(403, "PermissionDeniedError", "this needs a key of scope admin")
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > limits.body_bytes:
            return error_response(413, TOO_LARGE, _too_large(limits.body_bytes))
        if self._running[key.name] >= limits.running_per_key:
            message = f"this key has {limits.running_per_key} requests under way, as many as it may"
            return error_response(429, "RateLimitError", message, retry_after_s=BUSY_RETRY_S)
        if self.under_way >= self._config.most_under_way:
            return error_response(503, "ServiceUnavailableError", "too many requests are waiting", retry_after_s=BUSY_RETRY_S)
        return key

    def _find(self, headers: Headers) -> Key | None:
        scheme, _, secret = headers.get("authorization", "").partition(" ")
        return self._keys.find(secret.strip()) if scheme.lower() == "bearer" else None


def _from_here(headers: Headers) -> bool:
    """Whether no other site's page asks: a browser would send it here with the visitor's rights."""
    host = headers.get("host", "")
    own = headers.get("origin") in (None, f"http://{host}") and headers.get("sec-fetch-site") in OWN_SITE
    return own and (host.rpartition(":")[0] or host) in LOOPBACK


def _measured(receive: Receive, limit: int) -> Receive:
    """The same messages, until the body turns out longer than it may be."""
    left = limit

    async def measured() -> Message:
        nonlocal left
        message = await receive()
        left -= len(message.get("body", b""))
        if left < 0:
            raise HTTPException(413, _too_large(limit))
        return message

    return measured


def _too_large(limit: int) -> str:
    return f"a request's body has at most {limit} bytes"


def _with_headers(send: Send) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["x-content-type-options"] = "nosniff"
            headers.setdefault("cache-control", "no-store")
        await send(message)

    return send_with_headers
