"""The endpoint's routes: OpenAI's, answered by vLLM's own layer over the engine that holds the asked version, and those about versions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Coroutine
from contextlib import aclosing
from datetime import datetime
from typing import Any, Literal

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from pydantic import BaseModel, Field
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest, ChatCompletionResponse
from vllm.entrypoints.openai.completion.protocol import CompletionRequest, CompletionResponse
from vllm.entrypoints.serve.engine.protocol import ErrorResponse, ModelCard, ModelList

from actors.section import Section
from services.policy.config import LimitsConfig
from services.policy.desk import Desk
from services.policy.engine import ServingEngine
from services.policy.error_handlers import handle_errors
from services.policy.gate import ENDING
from services.policy.headers import version_headers
from services.policy.limits import CHAT, COMPLETION, check_chat, check_completion
from services.policy.lookout import BEST, POLICY
from services.policy.meter import Meter
from services.policy.slots import Slot

CLIENT_LEFT = 499
"""Status for the figures; nobody is there to read it."""
MODEL_NAME = r"^policy(@best|@step-(0|[1-9][0-9]{0,11}))?$"
ERRORS: dict[int | str, dict[str, Any]] = {code: {"model": ErrorResponse} for code in (400, 401, 404, 413, 429, 503)}
STREAMED: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}


class PolicyRow(BaseModel):
    """One version, as far as it is known."""

    id: str
    step: int
    weights: str | None
    created: datetime | None
    age_seconds: int | None
    age_steps: int | None
    resident: bool
    pinned: bool
    metrics: dict[str, float]
    refused: str | None


class PolicyList(BaseModel):
    """The versions of a run, oldest first, and what the names `policy` and `policy@best` mean."""

    object: Literal["list"]
    policy: int | None
    best: int | None
    best_by: str
    following: bool
    trouble: str | None
    data: list[PolicyRow]


class StepBody(Section):
    """Which version an order is about."""

    step: int = Field(ge=0, lt=10**12)
    """Its step."""


def build_api(desk: Desk, meter: Meter, pages: list[APIRouter]) -> FastAPI:
    """The endpoint's application; `pages` are further routes."""
    app = FastAPI(title="gmpo policy endpoint", docs_url=None, redoc_url=None, responses=ERRORS)
    app.include_router(_openai_routes(desk, meter))
    app.include_router(_policy_routes(desk))
    app.include_router(_probe_routes(desk, meter))
    for page in pages:
        app.include_router(page)
    handle_errors(app)
    _describe_honestly(app, desk.config.limits)
    return app


def _describe_honestly(app: FastAPI, limits: LimitsConfig) -> None:
    """Leave out of the OpenAPI description what vLLM's models know and this endpoint does not take, and tell the bounds."""
    bounds: dict[str, dict[str, Any]] = {
        "model": {"type": "string", "pattern": MODEL_NAME, "default": POLICY},
        "n": {"type": "integer", "minimum": 1, "maximum": limits.samples, "default": 1},
        "max_tokens": {"type": "integer", "minimum": 1, "maximum": limits.max_tokens},
        "max_completion_tokens": {"type": "integer", "minimum": 1, "maximum": limits.max_tokens},
        "min_tokens": {"type": "integer", "minimum": 0, "maximum": limits.max_tokens, "default": 0},
        "top_logprobs": {"type": "integer", "minimum": 0, "maximum": limits.logprobs},
        "temperature": {"type": "number", "minimum": 0, "maximum": 2},
        "top_p": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
        "min_p": {"type": "number", "minimum": 0, "maximum": 1},
        "top_k": {"type": "integer", "minimum": 0},
        "presence_penalty": {"type": "number", "minimum": -2, "maximum": 2},
        "frequency_penalty": {"type": "number", "minimum": -2, "maximum": 2},
        "repetition_penalty": {"type": "number", "exclusiveMinimum": 0, "maximum": 2},
    }
    described = app.openapi()
    for name, fields in (("CompletionRequest", COMPLETION), ("ChatCompletionRequest", CHAT)):
        schema = described["components"]["schemas"][name]
        schema["properties"] = {field: about for field, about in schema["properties"].items() if field in fields}
        schema["additionalProperties"] = False
        schema["properties"] |= {field: about for field, about in bounds.items() if field in fields}


def _openai_routes(desk: Desk, meter: Meter) -> APIRouter:
    router = APIRouter(tags=["OpenAI"])
    limits = desk.config.limits

    @router.post("/v1/completions", responses=STREAMED)
    async def completions(request: CompletionRequest, raw_request: Request) -> Response:
        async def answer() -> Response:
            check_completion(request, limits)
            slot = await _borrow(desk, request, raw_request)
            return await _answer(desk, meter, slot, raw_request, slot.engine.completions.create_completion(request))

        return await _while_connected(raw_request, answer())

    @router.post("/v1/chat/completions", responses=STREAMED)
    async def chat_completions(request: ChatCompletionRequest, raw_request: Request) -> Response:
        async def answer() -> Response:
            check_chat(request, limits)
            slot = await _borrow(desk, request, raw_request)
            return await _answer(desk, meter, slot, raw_request, slot.engine.chat.create_chat_completion(request))

        return await _while_connected(raw_request, answer())

    @router.get("/v1/models")
    async def models() -> ModelList:
        names = [POLICY, *([BEST] if desk.lookout.best is not None else []), *(f"{POLICY}@step-{step}" for step in desk.lookout.good)]
        return ModelList(data=[ModelCard(id=name, owned_by="gmpo") for name in names])

    return router


async def _while_connected(raw_request: Request, answer: Coroutine[Any, Any, Response]) -> Response:
    """The answer, unless the client leaves or the request is given up: then the work on it has ended too when this returns."""
    work, left = asyncio.create_task(answer), asyncio.create_task(_disconnect(raw_request))
    try:
        await asyncio.wait({work, left}, return_when=asyncio.FIRST_COMPLETED)
        return work.result() if work.done() else Response(status_code=CLIENT_LEFT)
    finally:
        work.cancel()
        left.cancel()
        await asyncio.gather(work, left, return_exceptions=True)


async def _disconnect(raw_request: Request) -> None:
    """Return when the client has left; the body has been read already."""
    while (await raw_request.receive())["type"] != "http.disconnect":
        pass


async def _borrow(desk: Desk, request: CompletionRequest | ChatCompletionRequest, raw_request: Request) -> Slot[ServingEngine]:
    """The engine with the asked version, until the request ends in whatever way."""
    slot = await desk.borrow(request.model or POLICY)
    raw_request.scope[ENDING].callback(desk.residents.give_back, slot)
    request.model = slot.version.name
    return slot


async def _answer(desk: Desk, meter: Meter, slot: Slot[ServingEngine], raw_request: Request, answer: Awaitable[Any]) -> Response:
    """vLLM's answer as a response that says which version gave it."""
    headers = version_headers(slot.version.manifest, *desk.lookout.age(slot.version.manifest))
    began = time.perf_counter()
    given = await answer
    if isinstance(given, ErrorResponse):
        return JSONResponse(given.model_dump(), given.error.code, headers)
    if isinstance(given, CompletionResponse | ChatCompletionResponse):
        meter.answered(began)
        return JSONResponse(given.model_dump(), headers=headers)
    pieces = _streamed(given, meter, began)
    raw_request.scope[ENDING].push_async_callback(pieces.aclose)  # before the slot is given back, however the request ends
    return StreamingResponse(pieces, headers=headers, media_type="text/event-stream")


async def _streamed(pieces: AsyncGenerator[str], meter: Meter, began: float) -> AsyncGenerator[str]:
    """The same pieces; the first and the last are timed."""
    first = True
    async with aclosing(pieces):
        async for piece in pieces:
            if first:
                meter.began(began)
                first = False
            yield piece
    meter.answered(began)


def _policy_routes(desk: Desk) -> APIRouter:
    router = APIRouter(prefix="/v1/policies", tags=["versions"])

    @router.get("")
    async def policies() -> PolicyList:
        return PolicyList.model_validate(desk.describe())

    @router.post("/promote")
    async def promote(body: StepBody) -> PolicyList:
        await desk.promote(body.step)
        return await policies()

    @router.post("/rollback")
    async def rollback() -> PolicyList:
        await desk.rollback()
        return await policies()

    @router.post("/follow")
    async def follow() -> PolicyList:
        await desk.order(lambda orders: orders.follow())
        return await policies()

    @router.post("/pin")
    async def pin(body: StepBody) -> PolicyList:
        await desk.step(f"{POLICY}@step-{body.step}")
        await desk.order(lambda orders: orders.pin(body.step))
        return await policies()

    @router.post("/unpin")
    async def unpin(body: StepBody) -> PolicyList:
        await desk.order(lambda orders: orders.unpin(body.step))
        return await policies()

    return router


def _probe_routes(desk: Desk, meter: Meter) -> APIRouter:
    router = APIRouter(tags=["probes"])

    @router.get("/health")
    async def health() -> JSONResponse:
        serving = desk.residents.serving
        if not desk.residents.healthy or serving is None:
            return JSONResponse({"status": "no engine"}, 503)
        return JSONResponse({"status": "ok", "step": serving.step, "weights": serving.manifest.weights_short})

    @router.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        return Response(meter.page(desk), media_type=meter.content_type)

    return router
