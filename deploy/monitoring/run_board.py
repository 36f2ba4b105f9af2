"""The dashboard of training runs: is it progressing, is it learning, is anything wrong; below that every figure, by area."""

from __future__ import annotations

from functools import partial

from deploy.monitoring import pictures
from deploy.monitoring.expressions import DECLARED, RUN, series
from deploy.monitoring.grafana import Board, Choice, Row, Variable

curves, rates, increases = partial(pictures.curves, RUN), partial(pictures.rates, RUN), partial(pictures.increases, RUN)
shares, means, spread = partial(pictures.shares, RUN), partial(pictures.means, RUN), partial(pictures.spread, RUN)
stat = partial(pictures.stat, RUN)
BEGAN, SECONDS = series("step/began", "step/seconds")

FIRING = 'count by (run) (ALERTS{alertname=~"Gmpo.+", alertstate="firing", severity!="info", run=~"$run"})'
NONE = 'max by (run) (0 * gmpo_run_info{run=~"$run"})'


def _now(name: str) -> str:
    return RUN.present(DECLARED[name])


GLANCE = Row(
    "At a glance",
    (
        stat(
            "Step",
            {"done": _now("step/version"), "of": _now("run/steps")},
            text="Versions published, and the step with which the run is done.",
        ),
        stat(
            "This step",
            {
                "so far": RUN.series(f"(time() - ({BEGAN} > 0))"),
                "usual": RUN.series(f"({SECONDS}_sum / {SECONDS}_count)"),
            },
            unit="seconds",
            text="How long the present step has taken so far, and what one takes on average. Far beyond that the run has stalled.",
        ),
        stat("Time left", {"left": _now("run/eta_s")}, unit="seconds", text=DECLARED["run/eta_s"].help),
        stat("Reward", {"reward": _now("reward/mean")}, text=DECLARED["reward/mean"].help),
        stat(
            "Held-out accuracy",
            {"greedy": _now("eval/greedy"), "sampled": _now("eval/sampled")},
            unit="fraction",
            text="On questions that the run never trains on; 0 until they were first asked.",
        ),
        stat(
            "Alerts",
            {"firing": f"{FIRING} or {NONE}"},
            text="Rules of this run that fire now; docs/monitoring.md says what to do.",
            bad_from=1,
        ),
    ),
    across=6,
    height=5,
)
LEARNING = Row(
    "Is it learning?",
    (
        curves("Reward", "reward/mean", "reward/std"),
        curves("Right answers", "reward/right", "eval/greedy", "eval/sampled"),
        curves("Terms of the reward", "reward/part/*"),
    ),
)
RESPONSES = Row(
    "The responses",
    (
        curves("Length", "generation/length_mean"),
        shares(
            "Responses that teach little",
            "reward/masked",
            "reward/parse_failures",
            "generation/truncated",
            "generation/empty",
            whole="reward/responses",
        ),
        increases("Groups with nothing to compare", "reward/zero_advantage_groups", "reward/filtered_groups"),
    ),
)
UPDATE = Row(
    "The update",
    (
        curves("Loss", "learner/loss"),
        curves("Gradient norm", "learner/grad_norm"),
        curves("Entropy", "learner/entropy"),
        curves("Divergence", "learner/kl_ref", "learner/kl_behaviour", "reward/kl"),
        curves("Log-ratios", "learner/log_ratio_min", "learner/log_ratio_p01", "learner/log_ratio_p99", "learner/log_ratio_max"),
        curves("Clipped or rejected", "learner/clip_fraction", "learner/correction_rejected"),
        curves("Weight of a response or token", "learner/sequence_ratio", "learner/correction_mean"),
        increases("Updates", "learner/updates", "learner/skipped_updates"),
        curves("Learning rate", "learner/lr"),
    ),
)
AGREEMENT = Row(
    "Do engines and learner agree?",
    (
        curves("Mismatch on sampled tokens", "learner/mismatch", "learner/mismatch_max", logarithmic=True),
        curves("Error on the probe", "weights/probe_error", logarithmic=True),
        curves("Effective samples", "learner/effective_samples"),
    ),
)
SPEED = Row(
    "Speed",
    (
        spread("Time per step", "step/seconds", 0.5, 0.95),
        means("Where the learner's time goes", "queue/wait_s", "learner/seconds", "weights/publish_s"),
        spread("Wait for a batch", "queue/wait_s", 0.5, 0.95),
        curves("Tokens per second", "generation/tokens_per_s", "learner/tokens_per_s"),
        rates("Tokens sampled", "generation/tokens"),
        curves("Responses trained on", "step/samples_per_s"),
    ),
)
FLOW = Row(
    "From prompt to batch",
    (
        curves("Groups on their way", "generation/running", "queue/depth", "queue/claimed"),
        curves("Age of what is trained on", "staleness/max", "staleness/mean", "staleness/bound"),
        curves("Object store", "queue/store_used"),
        curves("Prompts", "ledger/trained", "ledger/dropped", "prompts/rejected"),
        rates("Responses verified", "reward/responses"),
        curves("Held-out questions under way", "eval/running"),
    ),
)
WEIGHTS = Row(
    "Publication of weights",
    (
        means("Time of a publication", "weights/publish_s", "weights/pause_s", "weights/send_s"),
        curves("Bandwidth while sending", "weights/bandwidth"),
        rates("Bytes sent to each engine", "weights/bytes"),
    ),
)
MENDING = Row(
    "What broke and was mended",
    (
        curves("Engines", "generation/down", "generation/engines_lost"),
        curves("Learner groups", "learner/attempts"),
        curves("Publications that failed", "weights/failures"),
        curves("Bytes arrived as they were sent", "weights/digest_ok"),
    ),
)

RUN_BOARD = Board(
    "gmpo-run",
    "gmpo / Training run",
    "Written by `python -m deploy.monitoring` from the metric declarations; edit a copy.",
    (
        Variable("run", "Run", "label_values(gmpo_run_info, run)"),
        Choice("window", "Look back", ("5m", "30m", "2h", "12h"), "30m"),
    ),
    (GLANCE, LEARNING, RESPONSES, UPDATE, AGREEMENT, SPEED, FLOW, WEIGHTS, MENDING),
)
