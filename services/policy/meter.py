"""What a replica counts and times, for Prometheus."""

from __future__ import annotations

import time
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.policy.desk import Desk
from services.telemetry.metrics import ENDPOINT_METRICS
from services.telemetry.prometheus import collectors

ANSWERS = frozenset({"/v1/chat/completions", "/v1/completions"})
"""Routes whose answers are counted: probes, scrapes and the page would hide how these fare."""
STATUSES = (200, 304, 400, 401, 403, 404, 405, 413, 422, 429, 499, 500, 503)


class Meter:
    """One replica's figures, all of them there from the start."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._of: dict[str, Any] = collectors(ENDPOINT_METRICS, self._registry)
        for status in STATUSES:
            self._of["serve/requests"].labels(status)
        self._swaps = 0

    def began(self, since: float) -> None:
        """The first piece of a streamed answer has come; `since` is of time.perf_counter."""
        self._of["serve/first_token_s"].observe(time.perf_counter() - since)

    def answered(self, since: float) -> None:
        """An answer was given in full."""
        self._of["serve/answer_s"].observe(time.perf_counter() - since)

    def page(self, desk: Desk) -> bytes:
        """The /metrics page."""
        residents, look = desk.residents, desk.lookout
        if residents.serving is not None:
            age_s, age_steps = look.age(residents.serving.manifest)
            self._set(step=residents.serving.step, age_s=age_s, age_steps=age_steps)
        if (wanted := look.wanted) is not None:
            self._set(wanted=wanted)
        self._set(trouble=look.trouble is not None)
        self._set(running=residents.running, waiting=residents.waiting, engines=len(residents.slots), refused=len(look.refusals))
        self._of["serve/swaps"].inc(residents.swaps - self._swaps)
        self._swaps = residents.swaps
        newest = {name: value for step in sorted(look.metrics) for name, value in look.metrics[step].items()}
        for name, value in newest.items():
            self._of["serve/evaluation"].labels(name).set(value)
        return generate_latest(self._registry)

    def counting(self, app: ASGIApp) -> ASGIApp:
        """The same application, what it answers to questions counted by status."""
        requests = self._of["serve/requests"]

        async def counted(scope: Scope, receive: Receive, send: Send) -> None:
            async def watched(message: Message) -> None:
                if message["type"] == "http.response.start":
                    requests.labels(message["status"]).inc()
                await send(message)

            await app(scope, receive, watched if scope.get("path") in ANSWERS else send)

        return counted

    def _set(self, **values: float) -> None:
        for name, value in values.items():
            self._of[f"serve/{name}"].set(value)
