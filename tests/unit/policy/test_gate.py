from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from actors.weights.version import Manifest
from services.policy.gate import Gate

BODY: Message = {"type": "http.request", "body": b"{}", "more_body": False}
GONE: Message = {"type": "http.disconnect"}


async def engine_app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers in two pieces with what it received."""
    received = [(await receive())["type"], (await receive())["type"]]
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    for piece in received:
        await send({"type": "http.response.body", "body": piece.encode(), "more_body": piece == received[0]})


async def healthy() -> tuple[int, Mapping[str, Any]]:
    return 200, {"status": "ok"}


async def ask(path: str, method: str = "GET") -> list[Message]:
    manifest = Manifest(1, 12, 11, datetime.now(UTC) - timedelta(seconds=90), "run", "ab" * 32, {})
    incoming, sent = iter([BODY, GONE]), []

    async def receive() -> Message:
        return next(incoming)

    async def send(message: Message) -> None:
        sent.append(message)

    await Gate(engine_app, manifest, healthy)({"type": "http", "method": method, "path": path, "headers": []}, receive, send)
    return sent


def headers_of(sent: list[Message]) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in sent[0]["headers"]}


async def test_an_engine_answer_passes_piece_by_piece_with_the_version_and_the_disconnect_seen() -> None:
    sent = await ask("/v1/chat/completions", "POST")
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body", "http.response.body"]
    assert [message["body"] for message in sent[1:]] == [b"http.request", b"http.disconnect"]
    headers = headers_of(sent)
    assert (headers["x-gmpo-step"], headers["x-gmpo-weights"]) == ("12", "abababababab")
    assert 90 <= int(headers["x-gmpo-age-seconds"]) < 95


@pytest.mark.parametrize("path", ["/", "/tokenize", "/v1/models/", "/v1/completions/render", "/V1/models", "/docs", "/update_weights"])
async def test_a_path_that_is_not_listed_never_reaches_the_engine(path: str) -> None:
    sent = await ask(path)
    assert sent[0]["status"] == 404
    error = json.loads(sent[1]["body"])["error"]
    assert (error["type"], error["code"]) == ("NotFoundError", 404)
    assert path in error["message"]


async def test_health_is_the_gates_own() -> None:
    sent = await ask("/health")
    assert (sent[0]["status"], json.loads(sent[1]["body"])) == (200, {"status": "ok"})
    assert headers_of(sent)["x-gmpo-step"] == "12"
