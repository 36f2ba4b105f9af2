"""What a run remembers, over HTTP for the page: how far it is, its curves, its evaluations, and what it trained on.

The run goes on writing while it is read. Answers are made anew only when a file behind them has changed, and carry an ETag, so that a
page that asks every few seconds costs a few looks at the file system. Routes are plain functions: FastAPI runs them in threads.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated

import yaml
from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel

from actors.records import NOT_OURS, records
from actors.types import Outcome
from services.evaluation.results import EVALUATIONS, read_results
from services.policy.run_curves import Charts, Evaluations, curves_of, suite_rows
from services.telemetry.history import Sample, read_history, read_page

MOST_ROLLOUTS = 100
FAR = 10**12
"""Beyond every step and every row: what a query may name at most."""


class RunState(BaseModel):
    """How far a run is."""

    name: str
    step: int
    """The newest trained step; 0 before the first."""
    steps: int | None
    """How many are planned, where the run's recipe says so."""


class Rollout(BaseModel):
    """One training response and its verdict; null where the record has no such figure."""

    step: int | None
    ordinal: int | None
    sample: int | None
    prompt: str
    response: str
    score: float | None
    outcome: str | None
    version_oldest: int | None
    version_newest: int | None
    advantage: float | None


class Rollouts(BaseModel):
    """Some of the responses that one step was trained on."""

    steps: list[int]
    """Steps that have rollouts, oldest first."""
    step: int | None
    """The one shown; null where there is none."""
    total: int
    """Responses with the asked outcome."""
    data: list[Rollout]


class Remembered:
    """An answer made from files, kept as long as they stay as they are. Safe to ask from several threads; one of them makes it."""

    def __init__(self, files: Callable[[], Iterable[Path]], make: Callable[[], BaseModel]) -> None:
        self._files, self._make = files, make
        self._lock = threading.Lock()
        self._etag, self._body = "", b""

    def answer(self, request: Request) -> Response:
        """The answer as JSON, or 304 for one who has it; 404 where a file is damaged."""
        with self._lock:
            etag = _etag(self._files())
            if etag != self._etag:
                self._body = self._made()
                self._etag = etag  # of the files before they were read: what changes meanwhile is read the next time
            body = self._body
        headers = {"etag": etag, "cache-control": "private, no-cache"}
        if request.headers.get("if-none-match") == etag:
            return Response(status_code=304, headers=headers)
        return Response(body, media_type="application/json", headers=headers)

    def _made(self) -> bytes:
        try:
            return self._make().model_dump_json(by_alias=True).encode()
        except (json.JSONDecodeError, yaml.YAMLError) as error:
            raise HTTPException(404, f"a file of the run cannot be read: {error}") from None


def run_routes(run_dir: Path) -> APIRouter:
    """GET /v1/run, and /charts, /evaluations and /rollouts under it, of the run in this directory; all of it may be partial."""
    router = APIRouter(prefix="/v1/run", tags=["run"])
    metrics, results = run_dir / "metrics.jsonl", run_dir / EVALUATIONS
    state = Remembered(lambda: (metrics, run_dir / "config.yaml"), lambda: run_state(run_dir))
    charts = Remembered(
        lambda: (metrics, run_dir / "evaluation.jsonl", *results.glob("*/step-*.json")),
        lambda: curves_of(read_history(run_dir, rollouts=False), read_results(run_dir)),
    )
    evaluations = Remembered(lambda: results.glob("*/step-*.json"), lambda: suite_rows(read_results(run_dir)))

    @router.get("", response_model=RunState)
    def run(request: Request) -> Response:
        return state.answer(request)

    @router.get("/charts", response_model=Charts)
    def run_charts(request: Request) -> Response:
        return charts.answer(request)

    @router.get("/evaluations", response_model=Evaluations)
    def run_evaluations(request: Request) -> Response:
        return evaluations.answer(request)

    @router.get("/rollouts")
    def run_rollouts(
        step: Annotated[int | None, Query(ge=0, lt=FAR)] = None,
        outcome: Outcome | None = None,
        offset: Annotated[int, Query(ge=0, lt=FAR)] = 0,
        limit: Annotated[int, Query(ge=1, le=MOST_ROLLOUTS)] = 20,
    ) -> Rollouts:
        return rollouts_of(run_dir / "rollouts", step, outcome=outcome, offset=offset, limit=limit)

    return router


def run_state(run_dir: Path) -> RunState:
    """How far the run is, by its files."""
    history = read_history(run_dir, rollouts=False)
    recipe = yaml.safe_load(history.config) or {}
    return RunState(
        name=run_dir.resolve().name,
        step=history.metrics[-1]["step"] if history.metrics else 0,
        steps=recipe.get("run", {}).get("steps"),
    )


def rollouts_of(directory: Path, step: int | None, *, outcome: Outcome | None, offset: int, limit: int) -> Rollouts:
    """A page of a step's rollouts, by default the newest step's; 404 for a step without any."""
    files = records(directory)
    if step is None:
        step = max(files, default=None)
    if step is None:
        return Rollouts(steps=[], step=None, total=0, data=[])
    if step not in files:
        raise HTTPException(404, f"step {step} has no rollouts")
    try:
        total, samples = read_page(files[step], outcome=outcome, offset=offset, limit=limit)
    except NOT_OURS:
        raise HTTPException(404, f"the rollouts of step {step} cannot be read") from None
    return Rollouts(steps=list(files), step=step, total=total, data=[_rollout(sample) for sample in samples])


def _rollout(sample: Sample) -> Rollout:
    return Rollout(
        step=sample.step,
        ordinal=sample.ordinal,
        sample=sample.sample,
        prompt=sample.prompt or "",
        response=sample.response or "",
        score=_finite(sample.score),
        outcome=sample.outcome,
        version_oldest=sample.version_oldest,
        version_newest=sample.version_newest,
        advantage=_finite(sample.advantage),
    )


def _finite(value: float | None) -> float | None:
    """JSON has no number for the others."""
    return value if value is not None and math.isfinite(value) else None


def _etag(files: Iterable[Path]) -> str:
    marks = [(str(file), stat.st_mtime_ns, stat.st_size) for file in sorted(files) if (stat := _stat(file))]
    return f'"{hashlib.sha256(repr(marks).encode()).hexdigest()[:16]}"'


def _stat(file: Path) -> os.stat_result | None:
    """None where there is no such file, or no longer."""
    try:
        return file.stat()
    except FileNotFoundError:
        return None
