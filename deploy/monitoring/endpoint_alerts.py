"""When somebody should look at the endpoint.

The error budget is 1 % of the answers: requests that failed with 5xx among those that were not refused with 4xx, which are the caller's.
An alert needs a long window, which says that it matters, and a short one, which says that it still goes on.
"""

from __future__ import annotations

from deploy.monitoring.rules import Alert, Group, Record

BUDGET = 0.01
WINDOWS = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")
BY = "sum by (namespace, job)"
ENDPOINT = "The endpoint {{ $labels.job }}"


def errors(window: str) -> str:
    """Name of the recorded share of failed answers."""
    return f"job:gmpo_serve_errors:ratio{window}"


def _error_share(window: str) -> Record:
    failed = f'{BY} (rate(gmpo_serve_requests_total{{status=~"5.."}}[{window}]))'
    judged = f'{BY} (rate(gmpo_serve_requests_total{{status!~"4.."}}[{window}]))'
    return Record(errors(window), f"{failed} / {judged}")


def _burning(factor: float, long: str, short: str) -> str:
    return f"{errors(long)} > {factor * BUDGET:g} and {errors(short)} > {factor * BUDGET:g}"


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
            "{{ $value | humanizePercentage }} of the answers failed with 5xx: so the error budget of 30 days (1%) lasts 5 at most.",
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
        Alert(
            "GmpoEndpointDown",
            "critical",
            "5m",
            # Ray Serve has no proxy on a node without a replica, so a target that gives no figures may be in order.
            f'max by (namespace, job) (up{{gmpo_component="endpoint"}}) == 0 or {BY} (gmpo_serve_engines) == 0',
            f"{ENDPOINT} does not answer",
            "For 5 minutes no replica has had an engine, or none has given figures.",
        ),
        Alert(
            "GmpoEndpointOldVersion",
            "warning",
            "15m",
            "gmpo_serve_wanted_step - gmpo_serve_step != 0",
            f"{ENDPOINT} answers with another version than it should",
            "{{ $labels.instance }} has been {{ $value }} steps away from the version that it should answer with for 15 minutes.",
        ),
        Alert(
            "GmpoEndpointBlind",
            "warning",
            "10m",
            "gmpo_serve_trouble > 0",
            f"{ENDPOINT} cannot look up its versions",
            "{{ $labels.instance }} has not been able to read the run's versions for 10 minutes, and answers with what it has.",
        ),
        Alert(
            "GmpoEndpointRefusedVersion",
            "warning",
            "5m",
            "gmpo_serve_refused_versions > 0",
            f"{ENDPOINT} refuses a version",
            "{{ $labels.instance }} found {{ $value }} versions bad and does not serve them.",
        ),
    ),
)

ENDPOINT_GROUPS = (BUDGET_RULES, VERSION_RULES)
