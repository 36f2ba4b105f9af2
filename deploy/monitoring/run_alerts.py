"""When somebody should look at a training run.

Every figure of a run is on its page from the first moment, at 0, and gone with the run: an alert must not take a 0 for a fact, nor
fire where there is nothing. `run` comes from gmpo_run_info, which stands on the same page.
"""

from __future__ import annotations

from deploy.monitoring.rules import Alert, Group, Record

RUN = "Run {{ $labels.run }}"


def of_run(expr: str) -> str:
    """The series of an expression with the label `run`; each must still have the labels of its page."""
    return f"({expr}) * on (job, instance) group_left (run) gmpo_run_info"


PROGRESS = Group(
    "gmpo-run-progress",
    (
        Record("run:gmpo_step_seconds:mean", "gmpo_step_seconds_sum / (gmpo_step_seconds_count > 0)"),
        # Five usual steps and no less than ten minutes; an hour for the first step; two hours more while held-out questions are asked.
        Record(
            "run:gmpo_step_deadline_seconds:max",
            "(clamp_min(5 * run:gmpo_step_seconds:mean, 600) or 0 * gmpo_step_seconds_count + 3600) + 7200 * gmpo_eval_running",
        ),
        Alert(
            "GmpoRunNotStarted",
            "warning",
            "30m",
            of_run("gmpo_step_began_timestamp_seconds == 0"),
            f"{RUN} has not started",
            "For 30 minutes the engines have not been sent a first version.",
        ),
        Alert(
            "GmpoRunStalled",
            "critical",
            "1m",
            of_run(
                "time() - (gmpo_step_began_timestamp_seconds > 0) > run:gmpo_step_deadline_seconds:max"
                " and gmpo_step_version < gmpo_run_steps"
            ),
            f"{RUN} makes no progress",
            "The present step has taken {{ $value | humanizeDuration }}, which is at least five times the usual step"
            " (an hour for the first one).",
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
            of_run("increase(gmpo_weights_failures_publications[30m]) > 0.5"),
            f"{RUN}: a publication of weights failed",
            '{{ printf "%.0f" $value }} publications failed within 30 minutes and were done again; five of one version end the run.',
        ),
        Alert(
            "GmpoWeightSyncStuck",
            "critical",
            "0m",
            of_run("increase(gmpo_weights_failures_publications[30m]) > 2.5"),
            f"{RUN}: publications of weights fail again and again",
            '{{ printf "%.0f" $value }} publications failed within 30 minutes; five of one version end the run.',
        ),
        Alert(
            "GmpoEngineDown",
            "warning",
            "10m",
            of_run("gmpo_generation_down_engines > 0"),
            f"{RUN}: an engine does not come back",
            "{{ $value }} engines have taken no work for 10 minutes; the others do theirs.",
        ),
        Alert(
            "GmpoEnginesDying",
            "warning",
            "0m",
            of_run("increase(gmpo_generation_engines_lost_engines[1h]) > 2.5"),
            f"{RUN}: engines die again and again",
            '{{ printf "%.0f" $value }} engines died or hung within an hour, and were replaced.',
        ),
        Alert(
            "GmpoLearnerRestarted",
            "warning",
            "0m",
            of_run("gmpo_learner_attempts > 1 and changes(gmpo_learner_attempts[30m]) > 0"),
            f"{RUN}: the learner group was restarted",
            "This is learner group number {{ $value }} since the driver began; steps after the last checkpoint are trained again.",
        ),
        Alert(
            "GmpoQueueStoreFull",
            "warning",
            "5m",
            of_run("gmpo_queue_store_used_fraction > 0.8"),
            f"{RUN}: the object store is nearly full",
            "{{ $value | humanizePercentage }} of the cluster's object store is in use; above 80% no prompt is admitted and Ray spills.",
        ),
    ),
)

LEARNING = Group(
    "gmpo-run-learning",
    (
        Record(
            "run:gmpo_reward_masked:ratio2h", "increase(gmpo_reward_masked_responses_total[2h]) / increase(gmpo_reward_responses_total[2h])"
        ),
        Record(
            "run:gmpo_learner_skipped:ratio2h",
            "increase(gmpo_learner_skipped_updates_total[2h])"
            " / (increase(gmpo_learner_skipped_updates_total[2h]) + increase(gmpo_learner_updates_total[2h]))",
        ),
        Alert(
            "GmpoVerifierFaults",
            "warning",
            "0m",
            of_run("run:gmpo_reward_masked:ratio2h > 0.02"),
            f"{RUN}: verification fails for some responses",
            "{{ $value | humanizePercentage }} of the responses of the last 2 hours were left out because verification itself failed.",
        ),
        Alert(
            "GmpoVerifierDown",
            "critical",
            "0m",
            of_run("run:gmpo_reward_masked:ratio2h > 0.2"),
            f"{RUN}: verification fails for many responses",
            "{{ $value | humanizePercentage }} of the responses of the last 2 hours were left out because verification itself failed.",
        ),
        Alert(
            "GmpoUpdatesSkipped",
            "warning",
            "0m",
            of_run("run:gmpo_learner_skipped:ratio2h > 0"),
            f"{RUN}: updates are skipped as not finite",
            "{{ $value | humanizePercentage }} of the updates of the last 2 hours were skipped: loss or gradient was not finite.",
        ),
        Alert(
            "GmpoUpdatesSkippedOften",
            "critical",
            "0m",
            of_run("run:gmpo_learner_skipped:ratio2h > 0.1"),
            f"{RUN}: many updates are skipped as not finite",
            "{{ $value | humanizePercentage }} of the updates of the last 2 hours were skipped: loss or gradient was not finite.",
        ),
        # Engines in bfloat16 differ from the learner by some thousandths of a nat, in float32 by some millionths.
        Alert(
            "GmpoMismatchHigh",
            "warning",
            "15m",
            of_run("gmpo_learner_mismatch_nats > 0.05"),
            f"{RUN}: engines and learner disagree",
            'On the same tokens their log-probs differ by {{ printf "%.2g" $value }} nats on average.',
        ),
        Alert(
            "GmpoMismatchRising",
            "warning",
            "15m",
            of_run(
                "avg_over_time(gmpo_learner_mismatch_nats[30m]) > 0.001 and"
                " avg_over_time(gmpo_learner_mismatch_nats[30m]) > 3 * avg_over_time((gmpo_learner_mismatch_nats > 0)[6h:1m] offset 30m)"
                " and gmpo_learner_mismatch_nats offset 2h > 0"
            ),
            f"{RUN}: engines and learner drift apart",
            'On the same tokens their log-probs differ by {{ printf "%.2g" $value }} nats on average, over three times as much as before.',
        ),
        Alert(
            "GmpoStalenessAtBound",
            "info",
            "30m",
            of_run("gmpo_staleness_mean_versions >= 0.9 * gmpo_staleness_bound_versions and gmpo_staleness_bound_versions > 0"),
            f"{RUN} trains on groups as old as it may",
            "The mean age is {{ $value | humanize }} versions: engines wait for the learner.",
        ),
        Alert(
            "GmpoStalenessBeyondBound",
            "warning",
            "30m",
            of_run("gmpo_staleness_max_versions > gmpo_staleness_bound_versions"),
            f"{RUN} trains on groups older than it should",
            "The oldest group of the last step was {{ $value }} versions old, beyond replay.max_staleness.",
        ),
    ),
)

RUN_GROUPS = (PROGRESS, MENDING, LEARNING)
