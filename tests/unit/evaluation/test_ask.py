"""Asking over HTTP: what is sent, what is waited for, and what is refused. The endpoint is a function from request to answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from actors.errors import EngineError, GmpoError, PolicyVersionError, UnknownVersion, UsageError
from actors.generation.spec import Sampling
from services.evaluation.ask import Asker, Pinned

WEIGHTS = "0123456789ab"
PINNED = Pinned(12, WEIGHTS)
GREEDY = Sampling(1, 0.0, 1.0, 0, 16)
Handler = Callable[[httpx2.Request], httpx2.Response]


def answered(request: httpx2.Request, *, step: int = 12, weights: str = WEIGHTS) -> httpx2.Response:
    """What an endpoint says to a completion: the seed and each answer's number, so that tests see which is which."""
    body = json.loads(request.content)
    choices = [
        {"index": index, "text": f"{body.get('seed')}/{index}", "finish_reason": "stop", "token_ids": [7] * (index + 1)}
        for index in reversed(range(body.get("n") or 1))
    ]
    completion = {"id": "c", "object": "text_completion", "created": 1, "model": f"policy@step-{step}", "choices": choices}
    return httpx2.Response(200, json=completion, headers={"x-gmpo-step": str(step), "x-gmpo-weights": weights})


def refused(status: int, **headers: str) -> httpx2.Response:
    body = {"error": {"message": f"no: {status}", "type": "Error", "param": None, "code": status}}
    return httpx2.Response(status, json=body, headers={name.replace("_", "-"): value for name, value in headers.items()})


class Clock:
    """Time that passes only while someone waits."""

    def __init__(self) -> None:
        self.waits: list[float] = []

    def now(self) -> float:
        return sum(self.waits)

    async def wait(self, seconds: float) -> None:
        self.waits.append(seconds)


def asker(handler: Handler, clock: Clock | None = None) -> Asker:
    clock = clock or Clock()
    return Asker(
        "http://endpoint/",
        "secret",
        http_client=httpx2.AsyncClient(transport=httpx2.MockTransport(handler)),
        wait=clock.wait,
        clock=clock.now,
    )


async def test_a_version_is_pinned_by_what_answers() -> None:
    asked: list[dict[str, Any]] = []

    def handler(request: httpx2.Request) -> httpx2.Response:
        assert request.headers["authorization"] == "Bearer secret"
        assert str(request.url) == "http://endpoint/v1/completions"
        asked.append(json.loads(request.content))
        return answered(request)

    async with asker(handler) as client:
        assert await client.pin("policy@best") == PINNED
        await client.ask(PINNED, [1, 2], GREEDY, "seed")
    assert [body["model"] for body in asked] == ["policy@best", "policy@step-12"]


async def test_a_request_leaves_nothing_to_the_models_own_defaults() -> None:
    asked: list[dict[str, Any]] = []

    def handler(request: httpx2.Request) -> httpx2.Response:
        asked.append(json.loads(request.content))
        return answered(request)

    async with asker(handler) as client:
        await client.ask(PINNED, [1, 2], Sampling(1, 0.0, 1.0, 0, 16), "seed")
        await client.ask(PINNED, [1, 2], Sampling(2, 0.7, 0.9, 20, 16), "seed")
    common = {
        "model": "policy@step-12",
        "prompt": [1, 2],
        "max_tokens": 16,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "return_token_ids": True,
    }
    assert asked[0] == common | {"n": 1, "temperature": 0.0, "top_p": 1.0, "top_k": 0, "seed": None}
    assert asked[1] == common | {"n": 2, "temperature": 0.7, "top_p": 0.9, "top_k": 20, "seed": asked[1]["seed"]}


async def test_many_answers_are_asked_for_in_pieces_with_seeds_of_their_own() -> None:
    pieces: list[int] = []

    def handler(request: httpx2.Request) -> httpx2.Response:
        pieces.append(json.loads(request.content)["n"])
        return answered(request)

    async with asker(handler) as client:
        sampling = Sampling(20, 1.0, 1.0, 0, 16)
        rollouts = await client.ask(PINNED, [1], sampling, "0/amc/a#1")
        again = await client.ask(PINNED, [1], sampling, "0/amc/a#1")
        other = await client.ask(PINNED, [1], sampling, "0/amc/a#2")
    assert pieces == [8, 8, 4] * 3
    texts = [rollout.text for rollout in rollouts]
    assert len(set(texts)) == 20 and texts == [rollout.text for rollout in again]
    assert not set(texts) & {rollout.text for rollout in other}
    assert [len(rollout.token_ids) for rollout in rollouts] == [*range(1, 9), *range(1, 9), *range(1, 5)]
    assert {span.version for rollout in rollouts for span in rollout.spans} == {12}


@pytest.mark.parametrize("other", [{"step": 13}, {"weights": "f" * 12}])
async def test_an_answer_of_another_version_is_an_error(other: dict[str, Any]) -> None:
    async with asker(lambda request: answered(request, **other)) as client:
        with pytest.raises(PolicyVersionError, match="asked policy@step-12"):
            await client.ask(PINNED, [1], GREEDY, "seed")


async def test_a_busy_endpoint_is_asked_again_when_it_says() -> None:
    script = [refused(503, retry_after="7"), refused(429, retry_after="3"), refused(503)]
    clock = Clock()
    async with asker(lambda request: script.pop(0) if script else answered(request), clock) as client:
        (rollout,) = await client.ask(PINNED, [1], GREEDY, "seed")
    assert rollout.text == "None/0"
    assert clock.waits == [7.0, 3.0, 2.0]


async def test_an_endpoint_that_is_away_is_asked_again_and_given_up_in_the_end() -> None:
    def away(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("refused")

    clock = Clock()
    async with asker(away, clock) as client:
        with pytest.raises(EngineError, match=r"given up after 600 s: no answer \(refused\)"):
            await client.ask(PINNED, [1], GREEDY, "seed")
    assert 590 < clock.now() <= 600


@pytest.mark.parametrize(
    ("status", "error"), [(401, UsageError), (400, UsageError), (404, UnknownVersion), (408, EngineError), (500, EngineError)]
)
async def test_what_waiting_does_not_mend_is_an_error_at_once(status: int, error: type[GmpoError]) -> None:
    clock = Clock()
    async with asker(lambda request: refused(status), clock) as client:
        with pytest.raises(error, match=f"http://endpoint/: .*no: {status}"):
            await client.pin("policy")
    assert clock.waits == []


async def test_a_server_that_is_no_endpoint_is_named() -> None:
    def handler(request: httpx2.Request) -> httpx2.Response:
        response = answered(request)
        del response.headers["x-gmpo-step"]
        return response

    async with asker(handler) as client:
        with pytest.raises(UsageError, match="not a gmpo endpoint"):
            await client.pin("policy")


async def test_refused_versions_are_not_among_those_to_evaluate() -> None:
    rows = [{"step": 10, "refused": None}, {"step": 5, "refused": None}, {"step": 15, "refused": "truncated"}]

    def handler(request: httpx2.Request) -> httpx2.Response:
        assert (request.method, str(request.url)) == ("GET", "http://endpoint/v1/policies")
        return httpx2.Response(200, json={"object": "list", "data": rows})

    async with asker(handler) as client:
        assert await client.versions() == [5, 10]
