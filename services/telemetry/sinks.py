"""All the places a run's figures go, opened and closed together.

with open_sinks(config.telemetry, run_dir, run_name, resolved, step=resumed) as sinks:
    sinks.log(step, metrics)
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from actors.errors import MetricError
from services.telemetry.config import TelemetryConfig
from services.telemetry.jsonl import JsonlSink
from services.telemetry.metrics import declared
from services.telemetry.prometheus import PrometheusSink
from services.telemetry.trackers import Sink, open_tracker, require_packages


class Sinks:
    """Logs to every sink; refuses a metric that is not declared before any sink has seen the step."""

    def __init__(self, sinks: tuple[Sink, ...], closing: ExitStack, page: PrometheusSink | None) -> None:
        self._sinks, self._page = sinks, page
        self._closing = closing

    @property
    def where(self) -> tuple[str, ...]:
        """Where a person finds the figures: one path or address per sink."""
        return tuple(sink.where for sink in self._sinks)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record the figures of `step` everywhere; MetricError if one is undeclared."""
        for name in metrics:
            declared(name)
        for sink in self._sinks:
            sink.log(step, metrics)

    def observe(self, metrics: Mapping[str, float]) -> None:
        """Show gauges between two steps, on the page that is looked at at any time; MetricError for anything else."""
        for name in metrics:
            if declared(name).kind != "gauge":
                raise MetricError(f"metric {name!r} is counted once a step and cannot be observed between two")
        if self._page is not None:
            self._page.observe(metrics)

    def close(self) -> None:
        """Close every sink, also where one of them fails to."""
        self._closing.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def open_sinks(config: TelemetryConfig, run_dir: Path, run_name: str, resolved_config: Mapping[str, Any], *, step: int = 0) -> Sinks:
    """Open every sink that `config` asks for, in an existing `run_dir`, going on after `step` (0: from the start).

    Raises ConfigError, with nothing left open, where a tracker's package is missing or it or the port cannot be had.
    """
    require_packages(config.trackers)
    with ExitStack() as opening:
        sinks: list[Sink] = []

        def keep(sink: Sink) -> None:
            sinks.append(sink)
            opening.callback(sink.close)

        page = None
        if config.prometheus.port is not None:
            page = PrometheusSink(host=config.prometheus.host, port=config.prometheus.port, run_name=run_name)
            keep(page)
        for tracker in config.trackers:
            keep(open_tracker(tracker, run_dir=run_dir, run_name=run_name, step=step, resolved_config=resolved_config))
        keep(JsonlSink(run_dir / "metrics.jsonl", step=step))
        return Sinks(tuple(sinks), opening.pop_all(), page)
