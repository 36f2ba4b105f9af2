"""`report.html`: what a run reached, its curves, and what the policy wrote before and after, in one file that needs no network.

Responses are a model's words: the template escapes them, and the page forbids itself scripts and every address.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.telemetry.atomic import write_atomically
from services.telemetry.charts import Chart, Line, draw
from services.telemetry.figures import NOTHING, clock, fixed, number
from services.telemetry.history import History, Sample, read_history
from services.telemetry.pages import template

LONGEST = 4000
"""Characters of a prompt or response that are shown."""


@dataclass(frozen=True, slots=True)
class Plot:
    """What one chart shows: (label, metric) of one or two lines."""

    title: str
    note: str
    unit: str
    lines: tuple[tuple[str, str], ...]
    log: bool = False


PLOTS = (
    Plot("Entropy", "How undecided the policy is; zero ends exploration.", "nats", (("entropy", "learner/entropy"),)),
    Plot(
        "KL divergence",
        "To the starting policy; from the policy that sampled.",
        "nats",
        (("to start", "learner/kl_ref"), ("from sampler", "learner/kl_behaviour")),
    ),
    Plot(
        "Token log-ratio",
        "Extremes of current to old policy, before any clip.",
        "nats",
        (("greatest", "learner/log_ratio_max"), ("least", "learner/log_ratio_min")),
    ),
    Plot(
        "Token log-ratio, 98 % of tokens",
        "1st and 99th percentile, before any clip.",
        "nats",
        (("99 %", "learner/log_ratio_p99"), ("1 %", "learner/log_ratio_p01")),
    ),
    Plot("Clip fraction", "Share of tokens (or responses) whose clip binds.", "fraction", (("clipped", "learner/clip_fraction"),)),
    Plot("Response weight", "Mean of what multiplies a response's advantage.", "ratio", (("weight", "learner/sequence_ratio"),)),
    Plot(
        "Effective sample size", "Of tokens weighed by current to sampling policy.", "fraction", (("share", "learner/effective_samples"),)
    ),
    Plot(
        "Rollout correction",
        "Mean weight of a token; share left out.",
        "ratio",
        (("mean", "learner/correction_mean"), ("left out", "learner/correction_rejected")),
    ),
    Plot("Filtered groups", "Dropped by dynamic sampling.", "groups", (("filtered", "reward/filtered_groups"),)),
    Plot("Gradient norm", "Before clipping.", "norm", (("norm", "learner/grad_norm"),)),
    Plot("Response length", "Mean over the responses of the step.", "tokens", (("length", "generation/length_mean"),)),
    Plot(
        "Engine to learner mismatch",
        "Mean log-prob difference on the same tokens.",
        "nats",
        (("all tokens", "learner/mismatch"), ("probe", "weights/probe_error")),
        log=True,
    ),
    Plot(
        "Staleness",
        "Versions between sampling and training.",
        "versions",
        (("mean", "staleness/mean"), ("max", "staleness/max")),
    ),
    Plot(
        "Step time",
        "The whole step; waiting for a batch.",
        "seconds",
        (("step", "step/seconds"), ("wait", "queue/wait_s")),
    ),
    Plot(
        "Publication",
        "Of new weights; engines standing still.",
        "seconds",
        (("publish", "weights/publish_s"), ("pause", "weights/pause_s")),
    ),
    Plot("Learning rate", "Of the last update of the step.", "learning rate", (("rate", "learner/lr"),)),
    Plot(
        "Throughput",
        "Sampled tokens per second of the step; learned tokens per second of learning.",
        "tokens per second",
        (("generation", "generation/tokens_per_s"), ("learner", "learner/tokens_per_s")),
    ),
)


@dataclass(frozen=True, slots=True)
class Tile:
    """A headline figure; `before` is empty where there is nothing to compare with."""

    label: str
    value: str
    before: str
    note: str


@dataclass(frozen=True, slots=True)
class Pair:
    """One held-out question and the answers of the first and the last evaluation."""

    prompt: str
    answer: str
    before: str
    after: str
    score_before: float
    score_after: float


def write_report(run_dir: Path) -> Path:
    """Write `<run_dir>/report.html` from what the run left there so far, and return its path."""
    history = read_history(run_dir)
    page = template(Path(__file__).with_name("report.html.j2")).render(
        name=run_dir.resolve().name,
        tiles=tiles(history),
        charts=charts(history),
        pairs=pairs(history.evaluations),
        groups=[(_heading(samples), pick(samples)) for samples in (history.first, history.last) if samples],
        config=history.config,
        longest=LONGEST,
    )
    path = run_dir / "report.html"
    write_atomically(path, page)
    return path


def tiles(history: History) -> list[Tile]:
    """The headline figures, most telling first; those without data are left out."""
    steps, rewards = history.series("reward/mean")
    seconds = sum(history.series("step/seconds")[1])
    updates = sum(history.series("learner/updates")[1])
    rates = history.series("step/samples_per_s")[1]
    mismatches = history.series("learner/mismatch")[1]
    made = [_change(f"Held-out accuracy, {kind}", *history.accuracy(kind)) for kind in ("sampled", "greedy")]
    made.append(_change("Training reward", steps, rewards))
    if history.metrics:
        last = str(history.metrics[-1]["step"])
        made.append(Tile("Steps", last, "", f"{updates:.0f} optimizer updates" if updates else ""))
    if seconds:
        made.append(Tile("Training time", clock(seconds), "", "sum of all steps"))
    if rates:
        made.append(Tile("Samples per second", number(sum(rates) / len(rates)), "", "mean of all steps"))
    if mismatches:
        made.append(Tile("Mismatch, engine to learner", number(max(mismatches), digits=2), "", "nats, greatest mean of a step"))
    return [tile for tile in made if tile]


def _change(label: str, steps: Sequence[int], values: Sequence[float]) -> Tile | None:
    if not values:
        return None
    if len(values) == 1:
        return Tile(label, fixed(values[0]), "", f"at step {steps[0]}")
    return Tile(label, fixed(values[-1]), fixed(values[0]), f"step {steps[0]} to step {steps[-1]}")


def charts(history: History) -> list[Chart]:
    """Every chart that has data, the two that matter most first."""
    accuracy = [Line(kind, history.accuracy(kind)) for kind in ("sampled", "greedy")]
    reward = [Line("reward", history.series("reward/mean"))]
    drawn = [
        draw("Held-out accuracy", "Questions the policy is never trained on.", accuracy, unit="fraction right", top=1.02, wide=True),
        draw("Reward", "Mean over the graded responses of the step.", reward, unit="reward", wide=True),
    ]
    for plot in PLOTS:
        lines = [Line(label, history.series(metric)) for label, metric in plot.lines]
        drawn.append(draw(plot.title, plot.note, lines, unit=plot.unit, log=plot.log))
    return [chart for chart in drawn if chart]


def pairs(evaluations: Sequence[dict[str, Any]], *, count: int = 4) -> list[Pair]:
    """Questions both the first and the last evaluation asked: those whose score changed most come first."""
    if len(evaluations) < 2:
        return []
    first = {sample["prompt"]: sample for sample in evaluations[0].get("samples", ())}
    both = [(first[after["prompt"]], after) for after in evaluations[-1].get("samples", ()) if after["prompt"] in first]
    both.sort(key=lambda pair: -abs(float(pair[1]["score"]) - float(pair[0]["score"])))
    return [
        Pair(
            prompt=after["prompt"],
            answer=str(after.get("answer", "")),
            before=before["response"],
            after=after["response"],
            score_before=float(before["score"]),
            score_after=float(after["score"]),
        )
        for before, after in both[:count]
    ]


def pick(samples: Sequence[Sample], *, each: int = 2) -> list[Sample]:
    """A few right responses and a few others, of different prompts."""
    right = [sample for sample in samples if sample.outcome == "right"]
    other = [sample for sample in samples if sample.outcome != "right"]
    return [*_of_different_prompts(right, each), *_of_different_prompts(other, each)]


def _of_different_prompts(samples: Iterable[Sample], count: int) -> list[Sample]:
    by_prompt: dict[str, Sample] = {}
    for sample in samples:
        by_prompt.setdefault(sample.prompt, sample)
    return list(by_prompt.values())[:count]


def _heading(samples: Sequence[Sample]) -> str:
    right = sum(sample.outcome == "right" for sample in samples)
    step = samples[0].step
    return f"Step {NOTHING if step is None else step}: {right} of {len(samples)} right"
