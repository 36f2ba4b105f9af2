"""When somebody should look at a training run.

Every figure of a run is on its page from the first moment, at 0, and gone with the run: an alert must not take a 0 for a fact, nor
fire where a run has come to its end. `run` comes from gmpo_run_info, which stands on the same page.
"""

from __future__ import annotations

from deploy.monitoring.expressions import series
from deploy.monitoring.rules import REMEMBERED, Alert, Group, Record

RUN = "Run {{ $labels.run }}"
STEPS, LEFT, VERSION, BEGAN, SECONDS = series("run/steps", "run/eta_s", "step/version", "step/began", "step/seconds")
EVALUATING, FAILURES, DOWN, LOST = series("eval/running", "weights/failures", "generation/down", "generation/engines_lost")
ATTEMPTS, STORE, RESPONSES, MASKED = series("learner/attempts", "queue/store_used", "reward/responses", "reward/masked")
UPDATES, SKIPPED, MISMATCH, EFFECTIVE = series(
    "learner/updates", "learner/skipped_updates", "learner/mismatch", "learner/effective_samples"
)
AGE, OLDEST, BOUND = series("staleness/mean", "staleness/max", "staleness/bound")

UNFINISHED = "run:gmpo_unfinished:max"
MEAN_STEP = "run:gmpo_step_seconds:mean"
DEADLINE = "run:gmpo_step_deadline_seconds:max"
MASKED_SHARE = "run:gmpo_reward_masked:ratio2h"
SKIPPED_SHARE = "run:gmpo_learner_skipped:ratio2h"
NO_VERDICT = (
    "{{ $value | humanizePercentage }} of the responses of the last 2 hours were left out:"
    " their verification timed out, ran out of memory or crashed."
)


def of_run(expr: str) -> str:
    """The series of an expression with the label `run`; each must still have the labels of its page."""
    return f"({expr}) * on (job, instance) group_left (run) gmpo_run_info"


def _unfinished() -> str:
    """1 where a run has more than a step, and more than two minutes, to go: less may pass between the last scrape and its end."""
    ending = f"({LEFT} > bool 0) * ({LEFT} <= bool 120)"  # it is 0 before the first step
    return f"max by (namespace, run) ({of_run(f'({STEPS} - {VERSION} > bool 1) * (1 - {ending})')})"


def _skipping(share: float) -> str:
    """A single skip says nothing, however few updates there are."""
    return of_run(f"{SKIPPED_SHARE} > {share:g} and increase({SKIPPED}[2h]) > 1.5")


PROGRESS = Group(
    "gmpo-run-progress",
    (
        Record(UNFINISHED, _unfinished()),
        Record(MEAN_STEP, f"{SECONDS}_sum / ({SECONDS}_count > 0)"),
        # Five usual steps and no less than ten minutes; an hour for the first step; two hours more while held-out questions are asked.
        Record(
            DEADLINE,
            f"(clamp_min(5 * {MEAN_STEP}, 600) or 0 * {SECONDS}_count + 3600) + 7200 * {EVALUATING}",
        ),
        Alert(
            "GmpoRunNotStarted",
            "warning",
            "30m",
            of_run(f"{BEGAN} == 0"),
            f"{RUN} has not started",
            "For 30 minutes the engines have not been sent a first version.",
        ),
        Alert(
            "GmpoRunStalled",
            "critical",
            "1m",
            of_run(f"time() - ({BEGAN} > 0) > {DEADLINE} and {VERSION} < {STEPS}"),
            f"{RUN} makes no progress",
            "The present step has taken {{ $value | humanizeDuration }}, which is at least five times the usual step"
            " (an hour for the first one).",
        ),
        Alert(
            "GmpoRunGone",
            "warning",
            "15m",
            f"last_over_time({UNFINISHED}[{REMEMBERED}]) == 1 unless on (namespace, run) gmpo_run_info",
            f"{RUN} is gone before it was done",
            "For 15 minutes it has had no page of figures, and it had steps left.",
        ),
    ),
)

MENDING = Group(
    "gmpo-run-mending",
    (
        Alert(
            "GmpoWeightSyncFailing",
            "warning",
            "0m",
            of_run(f"increase({FAILURES}[30m]) > 0.5"),
            f"{RUN}: a publication of weights failed",
            '{{ printf "%.0f" $value }} publications failed within 30 minutes and were done again; five of one version end the run.',
        ),
        Alert(
            "GmpoWeightSyncStuck",
            "critical",
            "0m",
            of_run(f"increase({FAILURES}[30m]) > 2.5"),
            f"{RUN}: publications of weights fail again and again",
            '{{ printf "%.0f" $value }} publications failed within 30 minutes; five of one version end the run.',
        ),
        Alert(
            "GmpoEngineDown",
            "warning",
            "10m",
            of_run(f"{DOWN} > 0"),
            f"{RUN}: an engine does not come back",
            "{{ $value }} engines have taken no work for 10 minutes; the others do theirs.",
        ),
        Alert(
            "GmpoEnginesDying",
            "warning",
            "0m",
            of_run(f"increase({LOST}[1h]) > 2.5"),
            f"{RUN}: engines die again and again",
            '{{ printf "%.0f" $value }} engines died or hung within an hour, and were replaced.',
        ),
        Alert(
            "GmpoLearnerRestarted",
            "warning",
            "0m",
            of_run(f"{ATTEMPTS} > 1 and changes({ATTEMPTS}[30m]) > 0"),
            f"{RUN}: the learner group was restarted",
            "This is learner group number {{ $value }} since the driver began; steps after the last checkpoint are trained again.",
        ),
        Alert(
            "GmpoQueueStoreFull",
            "warning",
            "5m",
            of_run(f"{STORE} > 0.8"),
            f"{RUN}: the object store is nearly full",
            "{{ $value | humanizePercentage }} of the cluster's object store is in use; above 80% no prompt is admitted and Ray spills.",
        ),
    ),
)

LEARNING = Group(
    "gmpo-run-learning",
    (
        Record(MASKED_SHARE, f"increase({MASKED}[2h]) / increase({RESPONSES}[2h])"),
        Record(SKIPPED_SHARE, f"increase({SKIPPED}[2h]) / (increase({SKIPPED}[2h]) + increase({UPDATES}[2h]))"),
        Alert(
            "GmpoVerifierFaults",
            "warning",
            "0m",
            of_run(f"{MASKED_SHARE} > 0.02"),
            f"{RUN}: some responses get no verdict",
            NO_VERDICT,
        ),
        Alert(
            "GmpoVerifierDown",
            "critical",
            "0m",
            of_run(f"{MASKED_SHARE} > 0.2"),
            f"{RUN}: many responses get no verdict",
            NO_VERDICT,
        ),
        Alert(
            "GmpoUpdatesSkipped",
            "warning",
            "0m",
            _skipping(0.01),
            f"{RUN}: updates are skipped as not finite",
            "{{ $value | humanizePercentage }} of the updates of the last 2 hours were skipped: loss or gradient was not finite.",
        ),
        Alert(
            "GmpoUpdatesSkippedOften",
            "critical",
            "0m",
            _skipping(0.1),
            f"{RUN}: many updates are skipped as not finite",
            "{{ $value | humanizePercentage }} of the updates of the last 2 hours were skipped: loss or gradient was not finite.",
        ),
        # Engines in bfloat16 differ from the learner by some thousandths of a nat, in float32 by some millionths.
        Alert(
            "GmpoMismatchHigh",
            "warning",
            "15m",
            of_run(f"{MISMATCH} > 0.05"),
            f"{RUN}: engines and learner disagree",
            'On the same tokens their log-probs differ by {{ printf "%.2g" $value }} nats on average.',
        ),
        Alert(
            "GmpoMismatchRising",
            "warning",
            "15m",
            of_run(
                f"avg_over_time({MISMATCH}[30m]) > 0.001 and"
                f" avg_over_time({MISMATCH}[30m]) > 3 * avg_over_time(({MISMATCH} > 0)[6h:1m] offset 30m)"
                f" and {MISMATCH} offset 2h > 0"
            ),
            f"{RUN}: engines and learner drift apart",
            'On the same tokens their log-probs differ by {{ printf "%.2g" $value }} nats on average, over three times as much as before.',
        ),
        # With a bound of 1 every run whose engines keep up is at it; that matters only where most of the samples are lost to it.
        Alert(
            "GmpoStalenessAtBound",
            "info",
            "30m",
            of_run(f"{AGE} >= 0.9 * {BOUND} and ({BOUND} > 1 or {BOUND} == 1 and ({EFFECTIVE} > 0) < 0.5)"),
            f"{RUN} trains on groups as old as it may",
            'The mean age is {{ printf "%.2f" $value }} versions: engines wait for the learner.',
        ),
        Alert(
            "GmpoStalenessBeyondBound",
            "warning",
            "30m",
            of_run(f"{OLDEST} > {BOUND}"),
            f"{RUN} trains on groups older than it should",
            "The oldest group of the last step was {{ $value }} versions old, beyond replay.max_staleness.",
        ),
    ),
)

RUN_GROUPS = (PROGRESS, MENDING, LEARNING)
