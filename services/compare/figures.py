"""The figures of a comparison: what each shows, and their files."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from actors.errors import ConfigError
from services.compare.curves import over_seeds
from services.compare.panels import FEW, Curves, draw_lines, draw_ranges
from services.compare.series import Series
from services.compare.style import LOOKS, STYLE, save_png


@dataclass(frozen=True, slots=True)
class Plot:
    """What one figure shows: a metric over the steps."""

    name: str
    """Of its files."""
    title: str
    note: str
    """What to read in it."""
    unit: str
    """Labels the axis of values."""
    metrics: tuple[str, ...]
    """One, drawn as a line a series; or the least, low, high and greatest of a range, drawn in a panel a series."""
    needs: str = ""
    """Without which no run has the metric."""
    smooth: bool = True
    """Runs over many steps are shown as running medians."""
    from_zero: bool = False
    """The axis of values begins at 0, unless it is logarithmic."""
    needs_change: bool = False
    """Says nothing where it is 0 everywhere."""


_QUESTIONS = "held-out questions, asked at least once"

PLOTS = (
    Plot("reward", "Training reward", "Mean over the graded responses of a step.", "reward", ("reward/mean",)),
    Plot(
        "accuracy_sampled",
        "Held-out accuracy, sampled",
        "Share of the sampled answers to held-out questions that are right.",
        "fraction right",
        ("eval/sampled",),
        needs=_QUESTIONS,
        smooth=False,
    ),
    Plot(
        "accuracy_greedy",
        "Held-out accuracy, greedy",
        "Share of held-out questions whose greedy answer is right.",
        "fraction right",
        ("eval/greedy",),
        needs=_QUESTIONS,
        smooth=False,
    ),
    Plot(
        "log_ratio",
        "Log-ratio of tokens, current to old policy",
        "Before any clip, over the updates of a step. A narrow range means that no token's probability is moved far by one batch.",
        "log-ratio [nats]",
        ("learner/log_ratio_min", "learner/log_ratio_p01", "learner/log_ratio_p99", "learner/log_ratio_max"),
        smooth=False,  # extremes
    ),
    Plot(
        "entropy",
        "Entropy",
        "Of the next token, mean over the tokens learned from. At zero the policy explores no more.",
        "entropy [nats]",
        ("learner/entropy",),
        from_zero=True,
    ),
    Plot(
        "kl",
        "KL divergence to the reference",
        "From the frozen starting policy (k3 estimate), mean over the tokens learned from: how far training has moved.",
        "KL [nats]",
        ("learner/kl_ref",),
        needs="the reference pool (reference.enabled)",
        from_zero=True,
    ),
    Plot(
        "grad_norm",
        "Gradient norm",
        "Before it is clipped. Spikes are updates that would have thrown the policy off.",
        "gradient norm",
        ("learner/grad_norm",),
        smooth=False,  # spikes are what it is for
        from_zero=True,
    ),
    Plot(
        "clip_fraction",
        "Clip fraction",
        "Share of tokens (responses, where whole ones are clipped) whose clip binds.",
        "fraction clipped",
        ("learner/clip_fraction",),
        from_zero=True,
    ),
    Plot("length", "Response length", "Mean over the responses of a step.", "length [tokens]", ("generation/length_mean",)),
    Plot(
        "staleness",
        "Staleness",
        "Policy versions between sampling and training, mean over the groups of a step.",
        "staleness [versions]",
        ("staleness/mean",),
        from_zero=True,
        needs_change=True,
    ),
)


@dataclass(frozen=True, slots=True, eq=False)
class Drawing:
    """A figure and the files it is in."""

    plot: Plot
    figure: Figure
    caption: str  # what lines and bands are
    png: Path
    svg: Path


@dataclass(frozen=True, slots=True)
class Missing:
    """A figure that was left out."""

    plot: Plot
    why: str


def draw(series: Sequence[Series], directory: Path, *, plots: Sequence[Plot] = PLOTS) -> tuple[list[Drawing], list[Missing]]:
    """Write each figure as `<directory>/<name>.png` and `.svg`; those without data are left out, and it is said why.

    ConfigError where there are none, or more than can be told apart.
    """
    if not 0 < len(series) <= len(LOOKS):
        raise ConfigError(f"{len(series)} series: from 1 to {len(LOOKS)} can be told apart in one figure; compare other runs")
    directory.mkdir(parents=True, exist_ok=True)
    drawn: list[Drawing] = []
    missing: list[Missing] = []
    for plot in plots:
        curves = [[over_seeds(one, metric, smooth=plot.smooth) for one in series] for metric in plot.metrics]
        if why := _why_not(plot, curves):
            missing.append(Missing(plot, why))
        else:
            drawn.append(_drawn(plot, [one.label for one in series], curves, directory))
    return drawn, missing


def _drawn(plot: Plot, labels: Sequence[str], curves: Sequence[Curves], directory: Path) -> Drawing:
    caption = _caption(labels, curves)
    with matplotlib.rc_context(STYLE):
        if len(curves) > 1:
            figure = draw_ranges(labels, curves, unit=plot.unit)
        else:
            figure = draw_lines(labels, curves[0], unit=plot.unit, from_zero=plot.from_zero)
        figure.suptitle(plot.title, x=0.012, ha="left", fontsize=13, fontweight="bold")
        figure.supxlabel(textwrap.fill(caption, int(14.5 * figure.get_figwidth())), x=0.012, ha="left", fontsize=9.5)
        FigureCanvasAgg(figure)
        png, svg = (directory / f"{plot.name}.{kind}" for kind in ("png", "svg"))
        save_png(figure, png)
        figure.set_layout_engine("none")  # what was laid out for the first file holds for all
        figure.savefig(svg, metadata={"Date": None})
    return Drawing(plot, figure, caption, png, svg)


def _why_not(plot: Plot, curves: Sequence[Curves]) -> str:
    """Empty where there is something to draw."""
    there = [curve for row in curves for curve in row if curve is not None]
    if not there:
        return "no run has a value of it" + (f"; it needs {plot.needs}" if plot.needs else "")
    if plot.needs_change and not any(curve.high.any() for curve in there):
        return "0 at every step of every run"
    return ""


def _caption(labels: Sequence[str], curves: Sequence[Curves]) -> str:
    """What lines and bands are, so that a figure can be read by itself."""
    there = [curve for row in curves for curve in row if curve is not None]
    counts = sorted({curve.runs for curve in there})
    seeds = f"{counts[0]} seeds" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"
    told = []
    if len(curves) > 1:
        told.append("Dashed: least and greatest token; filled: 1st to 99th percentile.")
    elif len(there) > FEW:
        told.append("Below, each line before the others, in grey.")
    band = "the light bands are" if len(curves) > 1 else "the band is"
    told.append("Each line is one run." if counts == [1] else f"Median of {seeds}; {band} from the least to the greatest of them.")
    if any(curve.smoothed for curve in there):
        told.append("Each run is smoothed by a running median over a twentieth of its steps.")
    if len(curves) == 1 and any(curve.ended for curve in there):
        told.append("x: where a run ended before the others of its line; what is beyond is of those left.")
    lacking = [label for at, label in enumerate(labels) if all(row[at] is None for row in curves)]
    if lacking:
        told.append(f"Without values: {'; '.join(lacking)}.")
    return " ".join(told)
