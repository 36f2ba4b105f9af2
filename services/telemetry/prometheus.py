"""The run's /metrics page.

Every declared metric exists at 0 before the first scrape: `increase()` misses a counter that first appears at 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from actors.errors import ConfigError
from services.telemetry.metrics import METRICS, Metric, declared

SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000)
"""Upper bounds of the histograms, from a tiny policy's step to a large one's."""

FAMILY_LABEL = "name"
"""Label of a family: the free part of the metric's name."""


class PrometheusSink:
    """Serves the figures over HTTP from a thread of this process until closed."""

    def __init__(self, *, host: str, port: int, run_name: str) -> None:
        self._registry = CollectorRegistry()
        self._collectors = collectors(METRICS, self._registry)
        Gauge("gmpo_run_info", "Always 1; says which run this is", ["run"], registry=self._registry).labels(run_name).set(1)
        try:
            self._server, self._thread = start_http_server(port, addr=host, registry=self._registry)
        except OSError as error:
            raise ConfigError(f"telemetry.prometheus: cannot listen on {host}:{port}: {error}") from error
        self.port = int(self._server.server_port)
        self.where = f"http://{host}:{self.port}/metrics"

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Set gauges, add to counters, observe histograms."""
        del step  # Prometheus has its own clock; the step itself is the gauge step/version
        self.observe(metrics)

    def observe(self, metrics: Mapping[str, float]) -> None:
        """The same without a step: figures of this moment."""
        for name, value in metrics.items():
            metric = declared(name)
            collector = self._collectors[metric.name]
            if metric.family:
                collector = collector.labels(name.removeprefix(metric.name[:-1]))
            match collector:
                case Gauge():
                    collector.set(value)
                case Counter():
                    collector.inc(value)
                case Histogram():
                    collector.observe(value)

    def close(self) -> None:
        """Stop serving and free the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def collectors(metrics: Iterable[Metric], registry: CollectorRegistry) -> dict[str, Gauge | Counter | Histogram]:
    """A collector for each declared metric, by its name."""
    made: dict[str, Gauge | Counter | Histogram] = {}
    for metric in metrics:
        labels = (FAMILY_LABEL,) if metric.family else metric.labels
        match metric.kind:
            case "gauge":
                made[metric.name] = Gauge(metric.prometheus_name, metric.help, labels, registry=registry)
            case "counter":
                made[metric.name] = Counter(metric.prometheus_name, metric.help, labels, registry=registry)
            case "histogram":
                made[metric.name] = Histogram(metric.prometheus_name, metric.help, labels, buckets=SECONDS, registry=registry)
    return made
