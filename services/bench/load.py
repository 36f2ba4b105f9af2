"""A load of HTTP requests in OpenAI's shape: so many clients, each of which asks again as soon as it has its answer (a closed loop).

    answers = await closed_loop(url, ({"model": "policy", "prompt": [1, 2], "max_tokens": 8} for _ in range(100)), clients=8, key=key)

One process, one connection a client, no retries: what a server refuses or breaks off is an answer too. The bytes are read once the
last of them has come, so that a client on the server's machine takes little from it while the clock runs.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp

Body = Mapping[str, Any]
"""A request, as OpenAI's API has it; `stream: true` asks for server-sent events."""

COMPLETIONS = "/v1/completions"
STEP_HEADER = "x-gmpo-step"
DONE = "[DONE]"


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one request. Times are of `time.perf_counter`."""

    status: int  # of HTTP; 0 where there was no answer
    headers: Mapping[str, str]  # by their names in lower case
    model: str | None
    fingerprint: str | None
    text: str  # of the first choice
    token_ids: tuple[int, ...]  # of the first choice, where the request asked for them by `return_token_ids`
    tokens: int | None  # generated, as the server counts them; of a stream, where it was asked for its usage
    began: float  # when the request went out
    first: float | None  # when the first byte of the answer's body came
    ended: float
    error: str | None  # what went wrong; None is a whole answer

    @property
    def seconds(self) -> float:
        """From the request until the answer's last byte."""
        return self.ended - self.began

    @property
    def step(self) -> int | None:
        """The policy step that the answer says it comes from."""
        return int(self.headers[STEP_HEADER]) if STEP_HEADER in self.headers else None


async def closed_loop(
    url: str, requests: Iterable[Body], *, clients: int, key: str | None = None, path: str = COMPLETIONS, timeout_s: float = 600.0
) -> list[Answer]:
    """Send every request to the server at the root `url`, at most `clients` at a time; the answers, in the order of the requests.

    The next request is taken from `requests` when a client is free, so a generator that looks at the world makes a load that lasts until
    something has happened. `timeout_s` is of one request.
    """
    numbered = enumerate(requests)
    got: dict[int, _Raw] = {}
    session = aiohttp.ClientSession(
        url,
        headers={"Authorization": f"Bearer {key}"} if key is not None else None,
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=timeout_s),
    )
    async with session, asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(_client(session, path, numbered, got))
    return [_read(got[index]) for index in sorted(got)]


async def _client(session: aiohttp.ClientSession, path: str, requests: Iterator[tuple[int, Body]], got: dict[int, _Raw]) -> None:
    for index, body in requests:
        got[index] = await _ask(session, path, body)


@dataclass(slots=True)
class _Raw:
    """An answer as it comes."""

    streamed: bool
    began: float
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    first: float | None = None
    ended: float = 0.0
    broken: str | None = None
    pieces: list[bytes] = field(default_factory=list)


async def _ask(session: aiohttp.ClientSession, path: str, body: Body) -> _Raw:
    encoded = json.dumps(body).encode()
    raw = _Raw(bool(body.get("stream")), time.perf_counter())
    try:
        async with session.post(path, data=encoded, headers={"Content-Type": "application/json"}) as response:
            raw.status, raw.headers = response.status, response.headers
            async for piece in response.content.iter_any():
                raw.first = raw.first or time.perf_counter()
                raw.pieces.append(piece)
    except (aiohttp.ClientError, TimeoutError) as error:
        raw.broken = f"{type(error).__name__}: {error}"
    raw.ended = time.perf_counter()
    return raw


def _read(raw: _Raw) -> Answer:
    content = b"".join(raw.pieces).decode(errors="replace")
    parts: Sequence[Mapping[str, Any]] = ()
    error = raw.broken
    if error is None:
        parts, error = _parts(content, streamed=raw.streamed) if raw.status == 200 else ((), f"{raw.status}: {_complaint(content)}")
    said = [choice for part in parts for choice in part.get("choices") or () if choice.get("index", 0) == 0]
    usage: Mapping[str, Any] = next((part["usage"] for part in reversed(parts) if part.get("usage")), {})
    return Answer(
        status=raw.status,
        headers={name.lower(): value for name, value in raw.headers.items()},
        model=parts[0].get("model") if parts else None,
        fingerprint=next((part["system_fingerprint"] for part in parts if part.get("system_fingerprint")), None),
        text="".join(_text(choice) for choice in said),
        token_ids=tuple(token for choice in said for token in choice.get("token_ids") or ()),
        tokens=usage.get("completion_tokens"),
        began=raw.began,
        first=raw.first,
        ended=raw.ended,
        error=error,
    )


def _parts(content: str, *, streamed: bool) -> tuple[Sequence[Mapping[str, Any]], str | None]:
    """The JSON objects of an answer, of a stream one an event, and what is wrong with it."""
    events = [line.removeprefix("data:").strip() for line in content.splitlines() if line.startswith("data:")] if streamed else [content]
    try:
        parts = [json.loads(event) for event in events if event != DONE]
    except ValueError:
        return (), f"not JSON: {content[:200]}"
    if failed := next((part for part in parts if "error" in part), None):
        return parts, _complaint(json.dumps(failed))
    return parts, "the stream ended before its last event" if streamed and DONE not in events else None


def _complaint(content: str) -> str:
    """The message of an error in OpenAI's shape, or the start of whatever else came."""
    try:
        return str(json.loads(content)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return content[:200]


def _text(choice: Mapping[str, Any]) -> str:
    """What one choice says: of a completion, a chat, or an event of either's stream."""
    if "text" in choice:
        return choice["text"] or ""
    return (choice.get("message") or choice.get("delta") or {}).get("content") or ""
