"""When somebody should look at the endpoint.

The error budget is 1 % of the answers: requests that failed with 5xx among those that were not refused with 4xx, which are the caller's.
An alert needs a long window, which says that it matters, and a short one, which says that it still goes on; and enough failures in the long
one, since of three requests in a night one is a third.
"""

from __future__ import annotations

from deploy.monitoring.expressions import series
from deploy.monitoring.rules import REMEMBERED, Alert, Group, Record

BUDGET = 0.01
ENOUGH = 10
"""Failures in an alert's long window without which it says nothing."""
WINDOWS = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")
BY = "sum by (namespace, job)"
ENDPOINT = "The endpoint {{ $labels.job }}"
REQUESTS, ENGINES, STEP, WANTED = series("serve/requests", "serve/engines", "serve/step", "serve/wanted")
TROUBLE, REFUSED = series("serve/trouble", "serve/refused")
LASTING = "job:gmpo_serve_engines:sum"
"""Engines of the endpoints that do not end with a run."""


def errors(window: str) -> str:
    """Name of the recorded share of failed answers."""
    return f"job:gmpo_serve_errors:ratio{window}"


def _error_share(window: str) -> Record:
    failed = f'{BY} (rate({REQUESTS}{{status=~"5.."}}[{window}]))'
    judged = f'{BY} (rate({REQUESTS}{{status!~"4.."}}[{window}]))'
    return Record(errors(window), f"{failed} / {judged}")


def _burning(factor: float, long: str, short: str) -> str:
    enough = f'{BY} (increase({REQUESTS}{{status=~"5.."}}[{long}])) >= {ENOUGH}'
    return f"{errors(long)} > {factor * BUDGET:g} and {errors(short)} > {factor * BUDGET:g} and {enough}"


BUDGET_RULES = Group(
    "gmpo-endpoint-budget",
    (
        *map(_error_share, WINDOWS),
        Alert(
            "GmpoEndpointErrors",
            "critical",
            "2m",
            f"({_burning(14.4, '1h', '5m')}) or ({_burning(6, '6h', '30m')})",
            f"{ENDPOINT} fails too often",
            "{{ $value | humanizePercentage }} of the answers failed with 5xx; at this rate the budget of 30 days (1%) is gone within 5.",
        ),
        Alert(
            "GmpoEndpointErrorsSlow",
            "warning",
            "15m",
            f"({_burning(3, '1d', '2h')}) or ({_burning(1, '3d', '6h')})",
            f"{ENDPOINT} fails more often than it may",
            "{{ $value | humanizePercentage }} of the answers failed with 5xx, more than the error budget (1%) allows for.",
        ),
    ),
)

VERSION_RULES = Group(
    "gmpo-endpoint-versions",
    (
        Record(LASTING, f'{BY} ({ENGINES}{{app_kubernetes_io_component!="training"}})'),
        Alert(
            "GmpoEndpointDown",
            "critical",
            "5m",
            # Ray Serve has no proxy on a node without a replica, so a target that gives no figures may be in order. Of pods that are
            # deleted or pending there is no target at all.
            f'max by (namespace, job) (up{{gmpo_component="endpoint"}}) == 0 or {BY} ({ENGINES}) == 0'
            f" or (last_over_time({LASTING}[{REMEMBERED}]) unless {LASTING})",
            f"{ENDPOINT} does not answer",
            "For 5 minutes no replica has had an engine, or none has given figures.",
        ),
        Alert(
            "GmpoEndpointOldVersion",
            "warning",
            "15m",
            f"{WANTED} - {STEP} != 0",
            f"{ENDPOINT} answers with another version than it should",
            "{{ $labels.instance }} has been {{ $value }} steps away from the version that it should answer with for 15 minutes.",
        ),
        Alert(
            "GmpoEndpointBlind",
            "warning",
            "10m",
            f"{TROUBLE} > 0",
            f"{ENDPOINT} cannot look up its versions",
            "{{ $labels.instance }} has not been able to read the run's versions for 10 minutes, and answers with what it has.",
        ),
        Alert(
            "GmpoEndpointRefusedVersion",
            "warning",
            "5m",
            f"{REFUSED} > 0",
            f"{ENDPOINT} refuses a version",
            "{{ $labels.instance }} found {{ $value }} versions bad and does not serve them.",
        ),
    ),
)

ENDPOINT_GROUPS = (BUDGET_RULES, VERSION_RULES)
