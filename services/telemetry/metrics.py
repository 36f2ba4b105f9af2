"""Every figure a run reports, declared once: name, unit, kind and meaning.

A metric is called `area/thing` in trackers and `gmpo_area_thing_unit` in Prometheus. To add one, add its line to `METRICS`;
logging a name without a line raises MetricError. A name ending in `/*` declares a family, such as one figure per reward part.

A gauge carries the value of its step (where it is observed between steps, the present one), a counter the increment of its step
(Prometheus adds them up), and a histogram one observation per step.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Literal

from actors.errors import MetricError

Kind = Literal["gauge", "counter", "histogram"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One declared figure; `unit` is spelled as Prometheus spells it, empty where the figure has none."""

    name: str
    unit: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()

    @property
    def family(self) -> bool:
        """True where the last part of the name is free."""
        return self.name.endswith("/*")

    @property
    def prometheus_name(self) -> str:
        """`gmpo_area_thing_unit`; counters end in `_total`."""
        area, _, thing = self.name.removesuffix("/*").partition("/")
        thing = thing.replace("/", "_")
        if thing.endswith("_per_s"):
            thing += "econd"
        elif thing.endswith("_s"):
            thing += "econds"
        if self.unit and not thing.endswith(self.unit):
            thing += f"_{self.unit}"
        return f"gmpo_{area}_{thing}" + ("_total" if self.kind == "counter" else "")


METRICS: tuple[Metric, ...] = (
    # Rewards, over the responses of the step.
    Metric("reward/mean", "", "gauge", "Mean reward of the graded responses"),
    Metric("reward/std", "", "gauge", "Standard deviation of the reward"),
    Metric("reward/right", "fraction", "gauge", "Share of graded responses that are right"),
    Metric("reward/responses", "responses", "counter", "Responses of the step, graded or not"),
    Metric("reward/parse_failures", "responses", "counter", "Responses without a readable answer (graded as wrong)"),
    Metric("reward/masked", "responses", "counter", "Responses left out because verification gave no verdict (timeout, oom, crash)"),
    Metric("reward/zero_advantage_groups", "groups", "counter", "Groups whose responses all earned the same reward"),
    Metric("reward/filtered_groups", "groups", "counter", "Groups dropped by dynamic sampling on the way to this step"),
    Metric("reward/kl", "nats", "gauge", "KL of a response to the frozen starting policy, where the reward pays for it; mean"),
    Metric("reward/part/*", "", "gauge", "Mean of one unweighted term of the reward"),
    # Generation.
    Metric("generation/tokens", "tokens", "counter", "Tokens sampled"),
    Metric("generation/tokens_per_s", "tokens_per_second", "gauge", "Sampled tokens of the step per second of the step"),
    Metric("generation/length_mean", "tokens", "gauge", "Mean response length"),
    Metric("generation/truncated", "responses", "counter", "Responses cut off at the token limit"),
    Metric("generation/empty", "responses", "counter", "Responses without a single token"),
    Metric("generation/engines_lost", "engines", "gauge", "Engines of this driver that died or hung and were replaced"),
    Metric("generation/down", "engines", "gauge", "Engines that take no work: dead, hung or being replaced"),
    Metric("generation/running", "groups", "gauge", "Groups admitted and not yet ready"),
    # Replay queue.
    Metric("queue/depth", "groups", "gauge", "Groups ready to be claimed"),
    Metric("queue/claimed", "groups", "gauge", "Groups claimed and not yet published"),
    Metric("queue/store_used", "fraction", "gauge", "Share of the cluster's object store in use; nothing is admitted above 0.8"),
    Metric("queue/wait_s", "seconds", "histogram", "Time the learner waited for its batch"),
    # Staleness: version being trained minus the oldest version among a group's tokens.
    Metric("staleness/mean", "versions", "gauge", "Mean age of the groups of the step"),
    Metric("staleness/max", "versions", "gauge", "Greatest age of a group of the step"),
    Metric("staleness/bound", "versions", "gauge", "Greatest age that the recipe admits (replay.max_staleness)"),
    # Learner, over the updates of the step.
    Metric("learner/loss", "", "gauge", "Loss: -J, KL term and entropy bonus, mean over the updates"),
    Metric("learner/grad_norm", "", "gauge", "Gradient norm before clipping, mean over the updates"),
    Metric("learner/lr", "", "gauge", "Learning rate of the last update"),
    Metric("learner/updates", "updates", "counter", "Updates applied"),
    Metric("learner/skipped_updates", "updates", "counter", "Updates skipped because loss or gradient was not finite"),
    Metric("learner/attempts", "", "gauge", "Learner groups started by this driver; more than 1 means restarts"),
    Metric("learner/log_ratio_min", "nats", "gauge", "Least log-ratio of a token, current to old policy"),
    Metric("learner/log_ratio_p01", "nats", "gauge", "1st percentile of the tokens' log-ratios, current to old policy"),
    Metric("learner/log_ratio_p99", "nats", "gauge", "99th percentile of the tokens' log-ratios, current to old policy"),
    Metric("learner/log_ratio_max", "nats", "gauge", "Greatest log-ratio of a token, current to old policy"),
    Metric("learner/effective_samples", "fraction", "gauge", "Effective sample size of the tokens weighed by current / behaviour policy"),
    Metric("learner/correction_mean", "", "gauge", "Mean rollout-correction weight of a token"),
    Metric("learner/correction_rejected", "fraction", "gauge", "Share of tokens that the rollout correction leaves out"),
    Metric("learner/sequence_ratio", "", "gauge", "Mean ratio of a response, current to old policy, as the objective weighs it"),
    Metric("learner/clip_fraction", "fraction", "gauge", "Share of tokens (responses, where whole ones are clipped) whose clip binds"),
    Metric("learner/entropy", "nats", "gauge", "Mean next-token entropy over the tokens learned from"),
    Metric("learner/kl_ref", "nats", "gauge", "KL to the frozen starting policy (k3) over the tokens learned from"),
    Metric(
        "learner/kl_behaviour",
        "nats",
        "gauge",
        "KL from the policy that sampled the tokens to that of the step's start (k1), over the tokens learned from",
    ),
    Metric("learner/mismatch", "nats", "gauge", "Mean |log-prob of the engine - log-prob of the learner| on the same tokens"),
    Metric("learner/mismatch_max", "nats", "gauge", "Greatest |log-prob of the engine - log-prob of the learner| on the same tokens"),
    Metric("learner/tokens_per_s", "tokens_per_second", "gauge", "Tokens learned from per second over all ranks"),
    Metric("learner/seconds", "seconds", "histogram", "Time the learner worked on the step"),
    # The step as a whole.
    Metric("step/seconds", "seconds", "histogram", "Time from one published version to the next"),
    Metric("step/version", "", "gauge", "Newest policy version"),
    Metric(
        "step/began",
        "timestamp_seconds",
        "gauge",
        "Unix time since when the next step is under way, evaluations apart; 0 until the engines hold the first version",
    ),
    Metric("step/samples_per_s", "samples_per_second", "gauge", "Responses trained on per second"),
    # Weight publication.
    Metric("weights/publish_s", "seconds", "histogram", "Time from pause to resume, probe included"),
    Metric("weights/pause_s", "seconds", "histogram", "Time the engines stood still"),
    Metric("weights/send_s", "seconds", "histogram", "Time the bytes took"),
    Metric("weights/bytes", "bytes", "counter", "Bytes sent to each engine"),
    Metric("weights/bandwidth", "bytes_per_second", "gauge", "Bytes per second while sending"),
    Metric(
        "weights/probe_error",
        "nats",
        "gauge",
        "Mean |log-prob of engine - log-prob of learner| on the probe prompt, of the worst engine",
    ),
    Metric("weights/failures", "publications", "gauge", "Publications of this driver that failed and were done again"),
    Metric("weights/digest_ok", "", "gauge", "1 where the bytes received equal the bytes sent, 0 where not"),
    # Held-out questions.
    Metric("eval/sampled", "fraction", "gauge", "Held-out accuracy of sampled answers"),
    Metric("eval/greedy", "fraction", "gauge", "Held-out accuracy of greedy answers"),
    Metric("eval/running", "", "gauge", "1 while the held-out questions are being answered"),
    # Prompts and their lives.
    Metric("prompts/rejected", "prompts", "gauge", "Rows left out as malformed or too long"),
    Metric("ledger/trained", "prompts", "gauge", "Prompts trained on"),
    Metric("ledger/dropped", "prompts", "gauge", "Prompts dropped with a reason"),
    # The run.
    Metric("run/steps", "steps", "gauge", "Step with which the run is done"),
    Metric("run/eta_s", "seconds", "gauge", "Time left at the present pace"),
)

ENDPOINT_METRICS: tuple[Metric, ...] = (
    Metric("serve/requests", "requests", "counter", "Requests for an answer, by status; those refused are among them", ("status",)),
    Metric("serve/answer_s", "seconds", "histogram", "Time from a request's admission to its whole answer"),
    Metric("serve/first_token_s", "seconds", "histogram", "Time from a request's admission to the first piece of a streamed answer"),
    Metric("serve/step", "", "gauge", "Step of the version that `policy` means"),
    Metric("serve/wanted", "step", "gauge", "Step of the version that `policy` is to mean: the promoted one, or the newest good one"),
    Metric("serve/trouble", "", "gauge", "1 while the versions cannot be looked up; what was known before stands"),
    Metric("serve/age_s", "seconds", "gauge", "Time since the weights that `policy` means were written"),
    Metric("serve/age_steps", "steps", "gauge", "Steps trained since the version that `policy` means"),
    Metric("serve/running", "requests", "gauge", "Requests that an engine works on"),
    Metric("serve/waiting", "requests", "gauge", "Requests that wait for their version to be loaded"),
    Metric("serve/engines", "engines", "gauge", "Engines that answer"),
    Metric("serve/refused", "versions", "gauge", "Versions that were found bad and are not served"),
    Metric("serve/swaps", "swaps", "counter", "Times an engine changed its version"),
    Metric("serve/evaluation", "", "gauge", "Newest value of each evaluation of a version", ("metric",)),
)
"""What one replica of the endpoint counts; these never reach trackers."""

_BY_NAME = {metric.name: metric for metric in METRICS}


def declared(name: str) -> Metric:
    """The declaration of `name`, of its family where it belongs to one; MetricError where there is none."""
    metric = _BY_NAME.get(name) or _BY_NAME.get(f"{name.rpartition('/')[0]}/*")
    if metric is None:
        near = difflib.get_close_matches(name, _BY_NAME, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise MetricError(f"metric {name!r} is not declared in services/telemetry/metrics.py{hint}")
    return metric
