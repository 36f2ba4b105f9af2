"""The dashboard of endpoints: does it answer, how fast, and with which version."""

from __future__ import annotations

from functools import partial

from deploy.monitoring import pictures
from deploy.monitoring.endpoint_alerts import BUDGET
from deploy.monitoring.expressions import DECLARED, ENDPOINT, series
from deploy.monitoring.grafana import Board, Choice, Row, Variable

curves, increases = partial(pictures.curves, ENDPOINT), partial(pictures.increases, ENDPOINT)
spread, picture, stat = partial(pictures.spread, ENDPOINT), partial(pictures.picture, ENDPOINT), partial(pictures.stat, ENDPOINT)
REQUESTS, ENGINES = series("serve/requests", "serve/engines")


def _rate(statuses: str) -> str:
    return f'sum by (job) (rate({REQUESTS}{{job=~"$job", status=~"{statuses}"}}[$window]))'


def _over_replicas(name: str, how: str) -> str:
    return f"{how} by (job) ({ENDPOINT.present(DECLARED[name])})"


ERRORS = f"{_rate('5..')} / {_rate('[235]..')}"
FIRING = 'count by (job) (ALERTS{alertname=~"GmpoEndpoint.+", alertstate="firing", severity!="info", job=~"$job"})'
NONE = f'max by (job) (0 * {ENGINES}{{job=~"$job"}})'

GLANCE = Row(
    "At a glance",
    (
        stat("Engines", {"answering": _over_replicas("serve/engines", "sum")}, text=DECLARED["serve/engines"].help),
        stat("Requests", {"per second": _rate("...")}, text="Requests for an answer per second, refused ones among them."),
        stat(
            "Failed",
            {"share": ERRORS},
            unit="fraction",
            text="Share of the answers that failed with 5xx; those refused with 4xx do not count.",
            bad_from=BUDGET,
        ),
        stat(
            "Whole answer",
            {"p95": ENDPOINT.quantile(DECLARED["serve/answer_s"], 0.95)},
            unit="seconds",
            text=DECLARED["serve/answer_s"].help,
        ),
        stat(
            "Version",
            {"answers": _over_replicas("serve/step", "min"), "should": _over_replicas("serve/wanted", "max")},
            text="Step of the version that `policy` means, and of the one that it is to mean.",
        ),
        stat(
            "Alerts",
            {"firing": f"{FIRING} or {NONE}"},
            text="Rules of this endpoint that fire now; docs/monitoring.md says what to do.",
            bad_from=1,
        ),
    ),
    across=6,
    height=5,
)
TRAFFIC = Row(
    "Requests",
    (
        picture(
            "Requests by status",
            {"{{status}}": f"{ENDPOINT.rate(DECLARED['serve/requests'])} > 0"},
            unit="requests_per_second",
            text=DECLARED["serve/requests"].help,
        ),
        picture("Failed answers", {"5xx": ERRORS}, unit="fraction", text="The error budget is 1%."),
        curves("Requests under way", "serve/running", "serve/waiting"),
    ),
)
LATENCY = Row(
    "How long answers take, and who gives them",
    (
        spread("Until the first piece", "serve/first_token_s", 0.5, 0.95, 0.99),
        spread("Until the whole answer", "serve/answer_s", 0.5, 0.95, 0.99),
        curves("Engines", "serve/engines"),
    ),
)
VERSIONS = Row(
    "Versions",
    (
        curves("Version", "serve/step", "serve/wanted"),
        curves("Age of the weights", "serve/age_s"),
        curves("Steps trained since", "serve/age_steps"),
        curves("Evaluations", "serve/evaluation"),
        curves("Versions refused", "serve/refused"),
        curves("Versions cannot be looked up", "serve/trouble"),
        increases("Changes of version", "serve/swaps"),
    ),
)

ENDPOINT_BOARD = Board(
    "gmpo-endpoint",
    "gmpo / Endpoint",
    "Written by `python -m deploy.monitoring` from the metric declarations; edit a copy.",
    (
        Variable("job", "Endpoint", f"label_values({ENGINES}, job)"),
        Choice("window", "Look back", ("1m", "5m", "30m", "2h"), "5m"),
    ),
    (GLANCE, TRAFFIC, LATENCY, VERSIONS),
)
