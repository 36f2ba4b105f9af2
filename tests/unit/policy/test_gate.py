from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from starlette.types import Message, Receive, Scope, Send

from actors.errors import ConfigError
from services.policy import keys
from services.policy.config import LimitsConfig, ServeConfig
from services.policy.gate import ENDING, Gate
from services.policy.keys import Key, KeyRing
from services.policy.keys import Scope as KeyScope

ADMIN, ADMIN_KEY = keys.make("ana", KeyScope.ADMIN)
QUERY, QUERY_KEY = keys.make("quentin", KeyScope.QUERY)
OVER, OVER_KEY = keys.make("oscar", KeyScope.ADMIN, expires=datetime.now(UTC) - timedelta(seconds=1))
ALL = (ADMIN_KEY, QUERY_KEY, OVER_KEY)


def echo() -> FastAPI:
    """Answers with the size of the body."""
    app = FastAPI()

    @app.api_route("/{path:path}", methods=["GET", "POST"])
    async def answer(request: Request) -> dict[str, int]:
        return {"bytes": len(await request.body())}

    return app


def client(gate: Gate, host: str = "127.0.0.1:8000") -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(gate), base_url=f"http://{host}")


def gate(*, given: Iterable[Key] = ALL, **settings: Any) -> Gate:
    return Gate(echo(), ServeConfig(**settings), KeyRing(given))


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


@pytest.mark.parametrize("path", ["/v1/policies", "/metrics", "/v1/models", "/openapi.json", "/v1/run/rollouts", "/Health", "/static"])
@pytest.mark.parametrize(
    "headers", [{}, bearer("gmpo-guess"), bearer(OVER), bearer(""), {"authorization": f"Basic {QUERY}"}, bearer("\xe9")]
)
async def test_nothing_that_holds_data_answers_without_a_good_key(path: str, headers: dict[str, str]) -> None:
    async with client(gate()) as http:
        response = await http.get(path, headers={name: value.encode("latin-1") for name, value in headers.items()})  # type: ignore[misc]
    assert response.status_code == 401
    assert response.json()["error"] | {"message": ""} == {"message": "", "type": "AuthenticationError", "param": None, "code": 401}
    assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("path", ["/", "/health", "/static/page.js"])
async def test_the_page_and_the_probe_need_no_key(path: str) -> None:
    async with client(gate()) as http:
        assert (await http.get(path)).status_code == 200


@pytest.mark.parametrize("order", ["promote", "pin", "unpin", "rollback", "follow"])
async def test_orders_need_the_admin_scope(order: str) -> None:
    async with client(gate()) as http:
        statuses = [(await http.post(f"/v1/policies/{order}", headers=bearer(secret))).status_code for secret in (QUERY, ADMIN)]
    assert statuses == [403, 200]


async def test_an_open_endpoint_asks_for_no_key() -> None:
    async with client(gate(given=(), open=True)) as http:
        assert (await http.post("/v1/policies/promote")).status_code == 200


@pytest.mark.parametrize(
    ("host", "headers"),
    [
        ("evil.example", {}),
        ("127.0.0.1:8000", {"origin": "http://evil.example"}),
        ("127.0.0.1:8000", {"sec-fetch-site": "cross-site"}),
        ("127.0.0.1:8000", {"sec-fetch-site": "same-site"}),
    ],
)
async def test_an_open_endpoint_does_not_answer_the_pages_of_other_sites(host: str, headers: dict[str, str]) -> None:
    async with client(gate(given=(), open=True), host) as http:
        assert (await http.post("/v1/policies/rollback", headers=headers)).status_code == 403


@pytest.mark.parametrize("path", ["/v1/policies/promote%0A", "/v1/policies/rollback%0d", "/v1/policies%00"])
async def test_a_path_that_routers_may_read_otherwise_is_none(path: str) -> None:
    async with client(gate()) as http:
        assert (await http.post(path, headers=bearer(QUERY))).status_code == 404


def test_only_loopback_may_be_open_and_others_need_a_file_of_keys() -> None:
    with pytest.raises(ValueError, match="open: only on loopback"):
        ServeConfig(host="0.0.0.0", open=True)
    with pytest.raises(ValueError, match="keys_file: needed to listen on"):
        ServeConfig(host="0.0.0.0")


@pytest.mark.parametrize("told", [True, False])
async def test_a_body_beyond_the_limit_is_refused_whether_its_length_is_told_or_not(told: bool) -> None:
    async def pieces() -> Any:
        for _ in range(11):
            yield b"x" * 100

    async with client(gate(limits=LimitsConfig(body_bytes=1000))) as http:
        content = b"x" * 1100 if told else pieces()
        assert (await http.post("/v1/x", content=content, headers=bearer(QUERY))).status_code == 413
        assert (await http.post("/v1/x", content=b"x" * 1000, headers=bearer(QUERY))).json() == {"bytes": 1000}


async def test_a_key_with_too_many_requests_under_way_is_told_to_wait_and_others_go_on() -> None:
    entered, leave = asyncio.Event(), asyncio.Event()
    ended = []

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        scope[ENDING].callback(ended.append, scope["path"])
        entered.set()
        await leave.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    one = ServeConfig(limits=LimitsConfig(running_per_key=1))
    async with client(Gate(slow, one, KeyRing(ALL))) as http:
        first = asyncio.create_task(http.get("/v1/a", headers=bearer(QUERY)))
        await entered.wait()
        refused = await http.get("/v1/b", headers=bearer(QUERY))
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        other = asyncio.create_task(http.get("/v1/c", headers=bearer(ADMIN)))
        leave.set()
        assert {(await first).status_code, (await other).status_code} == {200}
        assert (await http.get("/v1/d", headers=bearer(QUERY))).status_code == 200
    assert sorted(ended) == ["/v1/a", "/v1/c", "/v1/d"]


async def test_what_a_request_holds_is_given_back_also_when_it_fails() -> None:
    given_back = []

    async def failing(scope: Scope, receive: Receive, send: Send) -> None:
        scope[ENDING].callback(given_back.append, True)
        raise RuntimeError

    failing_gate = Gate(failing, ServeConfig(), KeyRing(ALL))
    async with client(failing_gate) as http:
        with pytest.raises(RuntimeError):
            await http.get("/v1/a", headers=bearer(QUERY))
    assert given_back == [True] and failing_gate.under_way == 0


async def test_web_sockets_are_closed() -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    await gate()({"type": "websocket", "path": "/v1/x", "headers": []}, receive, send)
    assert [message["type"] for message in sent] == ["websocket.close"]


def test_keys_are_kept_as_hashes_and_a_rotated_file_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    keys.add(file, QUERY_KEY)
    assert QUERY not in file.read_text() and file.stat().st_mode & 0o777 == 0o600
    with pytest.raises(ConfigError, match="has a key named 'quentin' already"):
        keys.add(file, QUERY_KEY)
    ring = KeyRing((), file)
    secret, successor = keys.make("quentin-2", KeyScope.QUERY)
    assert ring.find(QUERY) == QUERY_KEY and ring.find(secret) is None
    keys.add(file, successor)
    ring.refresh()
    assert ring.find(secret) == successor and ring.find(QUERY) == QUERY_KEY
    file.write_text(json.dumps({"keys": [json.loads(successor.model_dump_json())]}))
    ring.refresh()
    assert ring.find(QUERY) is None
    file.write_text("{")
    with pytest.raises(ConfigError, match=r"serve\.keys_file"):
        ring.refresh()
    assert ring.find(secret) == successor  # a file that cannot be read takes nobody's key away
