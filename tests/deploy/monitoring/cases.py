"""What a healthy run and endpoint look like to Prometheus, and what changes where something is wrong.

There is a sample a minute, for five hours. A case changes a few of the healthy series, most of them after an hour. Values are in
promtool's notation: `0+60x90` begins at 0 and rises by 60 ninety times, `_` is no sample, and at `stale` a series ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

MINUTES = 300
RUN = 'job="runs",instance="10.0.0.1:9400",namespace="ml"'
ENDPOINT = 'job="policy",instance="10.0.0.2:8000",namespace="ml"'


def steady(value: float) -> str:
    """The same all the time."""
    return f"{value:g}+0x{MINUTES}"


def rising(by: float) -> str:
    """A counter, from 0."""
    return f"0+{by:g}x{MINUTES}"


def change(before: float, after: float, *, minute: int) -> str:
    """One value, and from some minute on another."""
    return f"{before:g}+0x{minute - 1} {after:g}+0x{MINUTES - minute}"


Series = Mapping[str, str]
"""Metric (for an endpoint's requests with its status) -> values."""


def gone(series: Series) -> dict[str, str]:
    """Pages that vanish after an hour."""
    return {name: f"{values.split('x')[0]}x60 stale" for name, values in series.items()}


HEALTHY_RUN: dict[str, str] = {
    "gmpo_run_info": steady(1),
    "gmpo_run_steps": steady(5000),
    "gmpo_run_eta_seconds": "300000-60x300",
    # A step a minute, of which each takes the whole minute.
    "gmpo_step_version": rising(1),
    "gmpo_step_began_timestamp_seconds": rising(60),
    "gmpo_step_seconds_sum": rising(60),
    "gmpo_step_seconds_count": rising(1),
    "gmpo_eval_running": steady(0),
    "gmpo_weights_failures_publications": steady(0),
    "gmpo_generation_down_engines": steady(0),
    "gmpo_generation_engines_lost_engines": steady(0),
    "gmpo_learner_attempts": change(0, 1, minute=2),
    "gmpo_queue_store_used_fraction": steady(0.3),
    "gmpo_reward_responses_total": rising(16),
    "gmpo_reward_masked_responses_total": steady(0),
    "gmpo_learner_updates_total": rising(4),
    "gmpo_learner_skipped_updates_total": steady(0),
    "gmpo_learner_mismatch_nats": change(0, 0.004, minute=3),
    "gmpo_learner_effective_samples_fraction": change(0, 0.9, minute=3),
    # The default: engines that keep up are a version ahead.
    "gmpo_staleness_mean_versions": steady(0.95),
    "gmpo_staleness_max_versions": steady(1),
    "gmpo_staleness_bound_versions": steady(1),
}
HEALTHY_ENDPOINT: dict[str, str] = {
    "up": steady(1),
    'gmpo_serve_requests_total{status="200"}': rising(600),
    'gmpo_serve_requests_total{status="401"}': rising(600),  # somebody without a key: no failure of ours
    'gmpo_serve_requests_total{status="503"}': rising(1),
    "gmpo_serve_engines": steady(2),
    "gmpo_serve_step": steady(25),
    "gmpo_serve_wanted_step": steady(25),
    "gmpo_serve_trouble": steady(0),
    "gmpo_serve_refused_versions": steady(0),
}
Subject = Literal["run", "endpoint"]
HEALTHY: Mapping[Subject, Series] = {"run": HEALTHY_RUN, "endpoint": HEALTHY_ENDPOINT}


@dataclass(frozen=True, slots=True)
class Case:
    """An alert that fires at a minute, and no other; and what it then says."""

    alert: str
    minute: int
    says: str
    changes: Series
    labels: Mapping[str, str] = field(default_factory=dict)
    """Those of the alert, where they are not the labels of its subject's page."""
    also: tuple[str, ...] = ()
    """Alerts that may fire with it: milder ones of the same kind."""

    @property
    def subject(self) -> Subject:
        """Whose page it is about."""
        return "endpoint" if self.alert.startswith("GmpoEndpoint") else "run"


@dataclass(frozen=True, slots=True)
class Quiet:
    """A time at which nothing may fire, whatever it looks like."""

    why: str
    minute: int
    subject: Subject
    changes: Series


STALLED = {
    "gmpo_step_version": f"0+1x60 60+0x{MINUTES}",
    "gmpo_step_began_timestamp_seconds": f"0+60x60 3600+0x{MINUTES}",
    "gmpo_step_seconds_sum": f"0+60x60 3600+0x{MINUTES}",
    "gmpo_step_seconds_count": f"0+1x60 60+0x{MINUTES}",
}
FIRST_STEP = {
    "gmpo_step_version": steady(0),
    "gmpo_step_began_timestamp_seconds": change(0, 120, minute=2),
    "gmpo_step_seconds_sum": steady(0),
    "gmpo_step_seconds_count": steady(0),
    "gmpo_learner_mismatch_nats": steady(0),
    "gmpo_reward_responses_total": steady(0),
    "gmpo_learner_updates_total": steady(0),
}
COMING_UP = {name: steady(1 if name == "gmpo_run_info" else 0) for name in HEALTHY_RUN} | {"gmpo_run_steps": steady(5000)}
FINISHED = gone(HEALTHY_RUN | {"gmpo_run_steps": steady(60), "gmpo_run_eta_seconds": "3600-60x300"})
LAST_SCRAPED = FINISHED | gone({"gmpo_run_steps": steady(62), "gmpo_run_eta_seconds": "3720-60x300"})
LAST_OF_LONG_STEPS = FINISHED | gone({"gmpo_run_steps": steady(61), "gmpo_run_eta_seconds": steady(1800)})
ELSEWHERE = {
    f'{name}{{instance="10.0.0.9:9400"}}': f"_x75 {values}"
    for name, values in (HEALTHY_RUN | {"gmpo_step_began_timestamp_seconds": f"4500+60x{MINUTES}"}).items()
}
LOOSE = {"gmpo_staleness_bound_versions": steady(2)}
SILENT = {name: steady(5) for name in HEALTHY_ENDPOINT if "requests" in name}
IN_TRAINING = {
    "gmpo_serve_engines": "_x300",
    'gmpo_serve_engines{app_kubernetes_io_component="training"}': HEALTHY_ENDPOINT["gmpo_serve_engines"],
}
FAILING = 'gmpo_serve_requests_total{status="500"}'
POLICY = {"job": "policy", "namespace": "ml"}
NAMED = {"run": "tiny", "namespace": "ml"}

CASES = (
    Case("GmpoRunNotStarted", 70, "For 30 minutes the engines have not been sent a first version.", COMING_UP),
    Case(
        "GmpoRunStalled",
        72,
        "The present step has taken 12m 0s, which is at least five times the usual step (an hour for the first one).",
        STALLED,
    ),
    Case(
        "GmpoRunStalled",
        64,
        "The present step has taken 1h 2m 0s, which is at least five times the usual step (an hour for the first one).",
        FIRST_STEP,
    ),
    *(
        Case("GmpoRunGone", minute, "For 15 minutes it has had no page of figures, and it had steps left.", gone(series), NAMED)
        for series, minute in ((HEALTHY_RUN, 77), (HEALTHY_RUN, 160), (HEALTHY_RUN | FIRST_STEP, 77))
    ),
    Case(
        "GmpoWeightSyncFailing",
        61,
        "1 publications failed within 30 minutes and were done again; five of one version end the run.",
        {"gmpo_weights_failures_publications": change(0, 1, minute=60)},
    ),
    Case(
        "GmpoWeightSyncStuck",
        61,
        "3 publications failed within 30 minutes; five of one version end the run.",
        {"gmpo_weights_failures_publications": change(0, 3, minute=60)},
        also=("GmpoWeightSyncFailing",),
    ),
    Case(
        "GmpoEngineDown",
        71,
        "1 engines have taken no work for 10 minutes; the others do theirs.",
        {"gmpo_generation_down_engines": change(0, 1, minute=60)},
    ),
    Case(
        "GmpoEnginesDying",
        61,
        "3 engines died or hung within an hour, and were replaced.",
        {"gmpo_generation_engines_lost_engines": change(1, 4, minute=60)},
    ),
    Case(
        "GmpoLearnerRestarted",
        65,
        "This is learner group number 2 since the driver began; steps after the last checkpoint are trained again.",
        {"gmpo_learner_attempts": change(1, 2, minute=60)},
    ),
    Case(
        "GmpoQueueStoreFull",
        66,
        "93% of the cluster's object store is in use; above 80% no prompt is admitted and Ray spills.",
        {"gmpo_queue_store_used_fraction": change(0.3, 0.93, minute=60)},
    ),
    Case(
        "GmpoVerifierFaults",
        60,
        "6.25% of the responses of the last 2 hours were left out: their verification timed out, ran out of memory or crashed.",
        {"gmpo_reward_masked_responses_total": rising(1)},
    ),
    Case(
        "GmpoVerifierDown",
        60,
        "25% of the responses of the last 2 hours were left out: their verification timed out, ran out of memory or crashed.",
        {"gmpo_reward_masked_responses_total": rising(4)},
        also=("GmpoVerifierFaults",),
    ),
    Case(
        "GmpoUpdatesSkipped",
        160,
        "1.639% of the updates of the last 2 hours were skipped: loss or gradient was not finite.",
        {"gmpo_learner_skipped_updates_total": change(0, 8, minute=60)},
    ),
    Case(
        "GmpoUpdatesSkippedOften",
        60,
        "20% of the updates of the last 2 hours were skipped: loss or gradient was not finite.",
        {"gmpo_learner_skipped_updates_total": rising(1)},
        also=("GmpoUpdatesSkipped",),
    ),
    Case(
        "GmpoMismatchHigh",
        76,
        "On the same tokens their log-probs differ by 0.3 nats on average.",
        {"gmpo_learner_mismatch_nats": change(0.004, 0.3, minute=60)},
    ),
    Case(
        "GmpoMismatchRising",
        250,
        "On the same tokens their log-probs differ by 0.02 nats on average, over three times as much as before.",
        {"gmpo_learner_mismatch_nats": change(0.004, 0.02, minute=200)},
    ),
    Case(
        "GmpoStalenessAtBound",
        91,
        "The mean age is 1.95 versions: engines wait for the learner.",
        LOOSE | {"gmpo_staleness_mean_versions": change(1, 1.95, minute=60)},
    ),
    Case(
        "GmpoStalenessAtBound",
        91,
        "The mean age is 0.95 versions: engines wait for the learner.",
        {"gmpo_learner_effective_samples_fraction": change(0.9, 0.4, minute=60)},
    ),
    Case(
        "GmpoStalenessBeyondBound",
        91,
        "The oldest group of the last step was 4 versions old, beyond replay.max_staleness.",
        {"gmpo_staleness_max_versions": change(2, 4, minute=60)},
    ),
    Case(
        "GmpoEndpointErrors",
        60,
        "25.09% of the answers failed with 5xx; at this rate the budget of 30 days (1%) is gone within 5.",
        {FAILING: rising(200)},
        POLICY,
        also=("GmpoEndpointErrorsSlow",),
    ),
    Case(
        "GmpoEndpointErrors",
        60,
        "100% of the answers failed with 5xx; at this rate the budget of 30 days (1%) is gone within 5.",
        SILENT | {FAILING: rising(1)},
        POLICY,
        also=("GmpoEndpointErrorsSlow",),
    ),
    Case(
        "GmpoEndpointErrorsSlow",
        160,
        "2.033% of the answers failed with 5xx, more than the error budget (1%) allows for.",
        {FAILING: rising(11.45)},
        POLICY,
    ),
    Case(
        "GmpoEndpointErrorsSlow",
        200,
        "14.41% of the answers failed with 5xx, more than the error budget (1%) allows for.",
        {FAILING: change(0, 20000, minute=60)},  # over for two hours
        POLICY,
    ),
    Case(
        "GmpoEndpointDown",
        66,
        "For 5 minutes no replica has had an engine, or none has given figures.",
        {"gmpo_serve_engines": change(2, 0, minute=60)},
        POLICY,
    ),
    Case(
        "GmpoEndpointDown",
        66,
        "For 5 minutes no replica has had an engine, or none has given figures.",
        gone(HEALTHY_ENDPOINT) | {"up": change(1, 0, minute=60)},
        POLICY,
    ),
    *(
        Case(
            "GmpoEndpointDown",
            minute,
            "For 5 minutes no replica has had an engine, or none has given figures.",
            gone(HEALTHY_ENDPOINT),  # its pods were deleted, or wait for a node
            POLICY,
        )
        for minute in (67, 100)
    ),
    Case(
        "GmpoEndpointOldVersion",
        76,
        "10.0.0.2:8000 has been 50 steps away from the version that it should answer with for 15 minutes.",
        {"gmpo_serve_wanted_step": change(25, 75, minute=60)},
    ),
    Case(
        "GmpoEndpointBlind",
        71,
        "10.0.0.2:8000 has not been able to read the run's versions for 10 minutes, and answers with what it has.",
        {"gmpo_serve_trouble": change(0, 1, minute=60)},
    ),
    Case(
        "GmpoEndpointRefusedVersion",
        66,
        "10.0.0.2:8000 found 1 versions bad and does not serve them.",
        {"gmpo_serve_refused_versions": change(0, 1, minute=60)},
    ),
)

QUIETS = (
    *(Quiet("a healthy run", minute, "run", {}) for minute in (2, 10, 45, 200)),
    *(Quiet("a healthy endpoint", minute, "endpoint", {}) for minute in (2, 10, 200)),
    Quiet("engines are still coming up", 25, "run", COMING_UP),
    Quiet("the first step is long", 55, "run", FIRST_STEP),
    Quiet("less than ten minutes without a step", 69, "run", STALLED),
    Quiet("held-out questions are being asked", 160, "run", STALLED | {"gmpo_eval_running": steady(1)}),
    Quiet("steps of half an hour", 180, "run", STALLED | {"gmpo_step_seconds_sum": f"0+1800x60 108000+0x{MINUTES}"}),
    Quiet("the last step is done and its checkpoint takes long", 160, "run", STALLED | {"gmpo_run_steps": steady(60)}),
    *(Quiet("the run has ended", minute, "run", FINISHED) for minute in (61, 100, 200)),
    *(Quiet("it ended between two scrapes", 100, "run", last) for last in (LAST_SCRAPED, LAST_OF_LONG_STEPS)),
    Quiet("the run's page has only just gone", 70, "run", gone(HEALTHY_RUN)),
    Quiet("the run was ended long ago", 430, "run", gone(HEALTHY_RUN)),
    Quiet("the run went on elsewhere", 200, "run", {**gone(HEALTHY_RUN), **ELSEWHERE}),
    Quiet(
        "a synchronous run is at its bound of 0",
        160,
        "run",
        {f"gmpo_staleness_{which}_versions": steady(0) for which in ("mean", "max", "bound")},
    ),
    Quiet("now and then an update is skipped", 160, "run", {"gmpo_learner_skipped_updates_total": change(0, 1, minute=60)}),
    Quiet(
        "one of a few updates was skipped",
        160,
        "run",
        {"gmpo_learner_updates_total": "0+0.1x300", "gmpo_learner_skipped_updates_total": change(0, 1, minute=60)},
    ),
    Quiet("a restart of the learner long ago", 160, "run", {"gmpo_learner_attempts": change(1, 2, minute=60)}),
    Quiet("one engine was lost and replaced", 70, "run", {"gmpo_generation_engines_lost_engines": change(0, 1, minute=60)}),
    Quiet("an engine is being replaced", 65, "run", {"gmpo_generation_down_engines": change(0, 1, minute=60)}),
    Quiet("float32 engines differ ten times more than nothing", 250, "run", {"gmpo_learner_mismatch_nats": change(1e-6, 1e-5, minute=200)}),
    Quiet("the first steps differ less than later ones", 62, "run", {"gmpo_learner_mismatch_nats": change(1e-4, 4e-3, minute=35)}),
    Quiet("an error long ago", 160, "endpoint", {FAILING: change(0, 50, minute=60)}),
    Quiet("nobody asks", 160, "endpoint", SILENT),
    *(Quiet("the only request failed", minute, "endpoint", SILENT | {FAILING: change(0, 1, minute=60)}) for minute in (64, 90)),
    Quiet("the endpoint was taken away long ago", 430, "endpoint", gone(HEALTHY_ENDPOINT)),
    Quiet("the endpoint ended with its run", 100, "endpoint", gone({**HEALTHY_ENDPOINT, **IN_TRAINING})),
    Quiet("a version is being loaded", 70, "endpoint", {"gmpo_serve_wanted_step": change(25, 75, minute=60)}),
)
