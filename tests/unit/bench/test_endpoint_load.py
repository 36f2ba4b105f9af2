"""The load client, against a server that does what a test tells it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web

from services.bench import load
from services.bench.load import closed_loop

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
STREAM = {"stream": True}


@asynccontextmanager
async def server(handler: Handler) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/v1/{kind:.*}", handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def said(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "policy@step-3", "choices": [{"index": 0, "text": text}], **more}


async def stream(request: web.Request, *events: str) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for event in events:
        await response.write(f"data: {event}\n\n".encode())
    return response


async def test_as_many_requests_are_under_way_as_there_are_clients_and_answers_keep_the_order_of_the_requests() -> None:
    meeting, under_way, most = asyncio.Barrier(3), 0, 0

    async def answer(request: web.Request) -> web.Response:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await meeting.wait()  # goes on when three have come
        under_way -= 1
        return web.json_response(said(str((await request.json())["prompt"][0])))

    async with server(answer) as url:
        answers = await closed_loop(url, ({"prompt": [index]} for index in range(9)), clients=3, timeout_s=20)
    assert [answer.text for answer in answers] == [str(index) for index in range(9)]
    assert most == 3 and not any(answer.error for answer in answers)


async def test_a_load_can_last_until_something_has_happened() -> None:
    happened, asked = asyncio.Event(), 0

    async def answer(_: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        if asked == 7:
            happened.set()
        return web.json_response(said("x"))

    def until_then() -> Iterator[dict[str, Any]]:
        while not happened.is_set():
            yield {}

    async with server(answer) as url:
        answers = await closed_loop(url, until_then(), clients=2)
    assert 7 <= len(answers) <= 8


async def test_an_answer_says_who_gave_it_and_the_key_travels_as_a_bearer() -> None:
    async def answer(request: web.Request) -> web.Response:
        body = said(request.headers.get("Authorization", "none"), system_fingerprint="gmpo-step-3-ab", usage={"completion_tokens": 5})
        return web.json_response(body, headers={"X-Gmpo-Step": "3"})

    async with server(answer) as url:
        (with_key,) = await closed_loop(url, [{}], clients=4, key="secret")
        (without,) = await closed_loop(url, [{}], clients=4)
    assert (with_key.text, without.text) == ("Bearer secret", "none")
    assert (with_key.status, with_key.step, with_key.model) == (200, 3, "policy@step-3")
    assert (with_key.fingerprint, with_key.tokens, with_key.error) == ("gmpo-step-3-ab", 5, None)


async def test_the_first_token_of_a_stream_is_timed_when_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    first_came, clock = asyncio.Event(), iter(range(100))

    def tick() -> int:
        now = next(clock)
        if now == 1:  # the second look at the clock; the first was when the request went out
            first_came.set()
        return now

    async def answer(request: web.Request) -> web.StreamResponse:
        response = await stream(request, json.dumps(said("on")))
        await first_came.wait()
        for event in (said("ce"), {"choices": [], "usage": {"completion_tokens": 2}}):
            await response.write(f"data: {json.dumps(event)}\n\n".encode())
        await response.write(b"data: [DONE]\n\n")
        return response

    monkeypatch.setattr(load, "time", SimpleNamespace(perf_counter=tick))
    async with server(answer) as url:
        (got,) = await closed_loop(url, [STREAM], clients=1, timeout_s=20)
    assert (got.text, got.tokens, got.error) == ("once", 2, None)
    assert (got.began, got.first, got.ended, got.seconds) == (0, 1, 2, 2)


async def test_a_chat_is_read_as_well_in_one_piece_and_in_events() -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        if not (await request.json()).get("stream"):
            return web.json_response({"choices": [{"index": 0, "message": {"content": "yes"}}, {"index": 1, "message": {"content": "no"}}]})
        deltas = [{"role": "assistant", "content": ""}, {"content": "y"}, {"content": "es"}, {}]
        events = [json.dumps({"choices": [{"index": 0, "delta": delta}]}) for delta in deltas]
        return await stream(request, *events, "[DONE]")

    async with server(answer) as url:
        answers = await closed_loop(url, [{}, STREAM], clients=1, path="/v1/chat/completions")
    assert [answer.text for answer in answers] == ["yes", "yes"]


async def refuse(_: web.Request) -> web.Response:
    return web.json_response({"error": {"message": "slow down"}}, status=429, headers={"Retry-After": "3"})


async def crash(_: web.Request) -> web.Response:
    return web.Response(text="Bad gateway", status=502)


async def hang_up(request: web.Request) -> web.StreamResponse:
    response = await stream(request, json.dumps(said("on")))
    assert request.transport is not None
    request.transport.abort()
    return response


async def end_early(request: web.Request) -> web.StreamResponse:
    return await stream(request, json.dumps(said("on")))


async def fail_midway(request: web.Request) -> web.StreamResponse:
    return await stream(request, json.dumps(said("on")), json.dumps({"error": {"message": "engine died"}}), "[DONE]")


async def babble(_: web.Request) -> web.Response:
    return web.Response(text="<html>")


@pytest.mark.parametrize(
    ("handler", "body", "status", "error"),
    [
        (refuse, {}, 429, "429: slow down"),
        (refuse, STREAM, 429, "429: slow down"),
        (crash, {}, 502, "502: Bad gateway"),
        (hang_up, STREAM, 200, "ClientPayloadError"),
        (end_early, STREAM, 200, "the stream ended before its last event"),
        (fail_midway, STREAM, 200, "engine died"),
        (babble, {}, 200, "not JSON: <html>"),
    ],
)
async def test_whatever_goes_wrong_is_an_answer_with_an_error(handler: Handler, body: dict[str, Any], status: int, error: str) -> None:
    async with server(handler) as url:
        (answer,) = await closed_loop(url, [body], clients=1)
    assert answer.status == status
    assert answer.error is not None and answer.error.startswith(error)
    assert answer.headers.get("retry-after") == ("3" if status == 429 else None)


async def test_nobody_there_and_no_answer_in_time_are_errors_too() -> None:
    async def never(_: web.Request) -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError

    async with server(never) as url:
        (late,) = await closed_loop(url, [{}], clients=1, timeout_s=0.05)
    (nobody,) = await closed_loop(url, [{}], clients=1)
    assert (late.status, nobody.status) == (0, 0)
    assert late.error is not None and late.error.startswith("TimeoutError")
    assert nobody.error is not None and nobody.error.startswith("ClientConnectorError")
