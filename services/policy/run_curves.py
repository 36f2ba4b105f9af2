"""The curves of a run over its versions, as drawings and as figures, and the results of the evaluation suites."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, Field

from services.evaluation.results import Result, rows
from services.evaluation.results import series as series_of
from services.telemetry.charts import Line, draw
from services.telemetry.history import History, Series
from services.telemetry.report import PLOTS

ALSO_SHOWN = ("Response length", "Entropy", "KL divergence")
"""Titles of the report's charts that the page has too; drawing all of them would take a second at every step."""


class Figures(BaseModel):
    """One figure over the steps; suites' figures carry the bounds of their 95 % intervals."""

    steps: list[int]
    values: list[float]
    low: list[float] | None = None
    high: list[float] | None = None


class Drawing(BaseModel):
    """A chart, and the names of the series it draws."""

    title: str
    note: str
    svg: str
    """An <svg> element; its colours are CSS variables."""
    series: list[str]


class Charts(BaseModel):
    """Every curve that has data, the most telling first."""

    charts: list[Drawing]
    series: dict[str, Figures]


class SuiteRow(BaseModel):
    """What a suite found of one version."""

    suite: str
    step: int
    pass_at_1: float = Field(alias="pass@1")
    low: float
    """Lower end of the 95 % interval of pass@1."""
    high: float
    problems: int
    samples: int
    """Responses to each problem."""


class Evaluations(BaseModel):
    """The results of the suites, by suite and step."""

    data: list[SuiteRow]


@dataclass(frozen=True, slots=True)
class Curve:
    """What one chart shows: (label, name of the series, series) of one or two lines."""

    title: str
    note: str
    unit: str
    lines: Sequence[tuple[str, str, Figures]]
    top: float | None = None
    log: bool = False


def curves_of(history: History, results: Iterable[Result] = ()) -> Charts:
    """Draw the curves of a run; those without data are left out."""
    charts: list[Drawing] = []
    series: dict[str, Figures] = {}
    for curve in (*_of_reward(history), *_of_suites(results), *_of_learning(history)):
        there = [(label, name, figures) for label, name, figures in curve.lines if figures.steps]
        lines = [Line(label, (figures.steps, figures.values), _interval(figures)) for label, _, figures in there]
        chart = draw(curve.title, curve.note, lines, unit=curve.unit, log=curve.log, top=curve.top)
        if chart:
            charts.append(Drawing(title=chart.title, note=chart.note, svg=chart.svg, series=[name for _, name, _ in there]))
            series |= {name: figures for _, name, figures in there}
    return Charts(charts=charts, series=series)


def suite_rows(results: Iterable[Result]) -> Evaluations:
    """The suites' results as rows."""
    return Evaluations(data=[SuiteRow.model_validate(row) for row in rows(results)])


def _of_reward(history: History) -> Iterator[Curve]:
    held_out = [(kind, f"eval/{kind}", _figures(history.accuracy(kind))) for kind in ("sampled", "greedy")]
    yield Curve("Held-out accuracy", "Questions the policy is never trained on.", "fraction right", held_out, top=1.02)
    reward = _figures(history.series("reward/mean"))
    yield Curve("Reward", "Mean over the graded responses of the step.", "reward", [("reward", "reward/mean", reward)])


def _of_learning(history: History) -> Iterator[Curve]:
    for plot in PLOTS:
        if plot.title in ALSO_SHOWN:
            measured = [(label, metric, _figures(history.series(metric))) for label, metric in plot.lines]
            yield Curve(plot.title, plot.note, plot.unit, measured, log=plot.log)


def _of_suites(results: Iterable[Result]) -> Iterator[Curve]:
    """A chart for each suite: pass@1, and pass@k for the greatest k."""
    suites: dict[str, dict[int, Figures]] = {}
    for name, found in series_of(results).items():
        suite, _, measure = name.partition("/")
        if measure.startswith("pass@"):  # of the whole suite, not of one of its sets
            suites.setdefault(suite, {})[int(measure.removeprefix("pass@"))] = Figures(**found)
    for suite, by_k in suites.items():
        lines = [(f"pass@{k}", f"{suite}/pass@{k}", by_k[k]) for k in sorted({min(by_k), max(by_k)})]
        note = f"{' and '.join(label for label, _, _ in lines)}, with the 95 % interval."
        yield Curve(f"Suite {suite}", note, "fraction right", lines, top=1.02)


def _figures(series: Series) -> Figures:
    steps, values = series
    return Figures(steps=steps, values=values)


def _interval(figures: Figures) -> tuple[list[float], list[float]] | None:
    return (figures.low, figures.high) if figures.low is not None and figures.high is not None else None
