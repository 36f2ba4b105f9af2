"""Every error of the endpoint's routes leaves in OpenAI's shape."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException as StarletteHTTPException
from vllm.entrypoints.serve.exception_handling.error_response import create_error_response
from vllm.exceptions import VLLMError
from vllm.v1.engine.exceptions import EngineDeadError

from actors.errors import NotResident, PolicyVersionError
from services.policy.gate import error_response
from services.policy.limits import Refused

log = logging.getLogger(__name__)

NOT_FOUND = "NotFoundError"
DEAD_RETRY_S = 10.0
OPENAI = ("/v1/completions", "/v1/chat/completions")


def handle_errors(app: FastAPI) -> None:
    """Install the handlers."""

    async def unprocessable(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        return error_response(400, "BadRequestError", f"{where}: {first['msg']}" if where else first["msg"], param=where or None)

    async def http(_: Request, error: Exception) -> Response:
        assert isinstance(error, StarletteHTTPException)
        kind = NOT_FOUND if error.status_code == 404 else HTTPStatus(error.status_code).phrase.replace(" ", "") + "Error"
        return error_response(error.status_code, kind, str(error.detail))

    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, Refused)
        return error_response(400, "BadRequestError", str(error), param=error.param)

    async def no_version(_: Request, error: Exception) -> Response:
        return error_response(404, NOT_FOUND, str(error), param="model")

    async def not_resident(_: Request, error: Exception) -> Response:
        assert isinstance(error, NotResident)
        return error_response(503, "ServiceUnavailableError", str(error), retry_after_s=error.retry_after_s)

    async def dead(_: Request, error: Exception) -> Response:
        return error_response(503, "ServiceUnavailableError", "the engine has died; another one is on its way", retry_after_s=DEAD_RETRY_S)

    async def by_vllm(request: Request, error: Exception) -> Response:
        if not request.url.path.startswith(OPENAI):  # nothing that a client sent is to blame
            log.error("a request failed", exc_info=error)
            return error_response(500, "InternalServerError", "the endpoint failed; its log says why")
        if isinstance(error, RecursionError):
            return error_response(400, "BadRequestError", "the request is nested too deeply")
        found = create_error_response(error)
        if found.error.code >= 500:
            log.error("a request failed", exc_info=error)
        return JSONResponse(found.model_dump(), found.error.code)

    handlers: dict[type[Exception], Callable[[Request, Exception], Awaitable[Response]]] = {
        RequestValidationError: unprocessable,
        StarletteHTTPException: http,
        HTTPException: http,
        Refused: refused,
        PolicyVersionError: no_version,
        NotResident: not_resident,
        EngineDeadError: dead,
        # What vLLM raises on requests that it cannot follow; `by_vllm` knows which of them are the client's.
        VLLMError: by_vllm,
        ValueError: by_vllm,
        TypeError: by_vllm,
        OverflowError: by_vllm,
        NotImplementedError: by_vllm,
        Exception: by_vllm,
    }
    for kind, handler in handlers.items():
        app.exception_handler(kind)(handler)
