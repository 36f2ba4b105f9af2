"""Panels of declared metrics: unit, legend and text come from the declaration, the expression from its kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from deploy.monitoring.expressions import DECLARED, Scope, legend
from deploy.monitoring.grafana import Panel, Target
from services.telemetry.metrics import Metric

Read = Callable[[Metric], str]


def curves(scope: Scope, title: str, *names: str, logarithmic: bool = False) -> Panel:
    """Gauges as they stand."""
    return _panel(scope, title, names, scope.present, logarithmic=logarithmic, summed=False)


def rates(scope: Scope, title: str, *names: str) -> Panel:
    """Counters per second."""
    unit = DECLARED[names[0]].unit + "_per_second"
    return _panel(scope, title, names, scope.rate, unit=unit)


def increases(scope: Scope, title: str, *names: str) -> Panel:
    """Counters over the window."""
    return _panel(scope, title, names, scope.increase, unit=f"{DECLARED[names[0]].unit} in $window")


def shares(scope: Scope, title: str, *names: str, whole: str) -> Panel:
    """Counters as shares of another one."""
    return _panel(scope, title, names, lambda metric: scope.share(metric, DECLARED[whole]), unit="fraction")


def means(scope: Scope, title: str, *names: str) -> Panel:
    """Histograms by their mean, which is exact: for several beside each other."""
    return _panel(scope, title, names, scope.mean)


def spread(scope: Scope, title: str, name: str, *quantiles: float) -> Panel:
    """One histogram: its mean, and quantiles estimated from its buckets."""
    metric = DECLARED[name]
    estimated = {f"p{100 * share:g}": scope.quantile(metric, share) for share in quantiles}
    return picture(scope, title, {"mean": scope.mean(metric), **estimated}, unit=metric.unit, text=metric.help)


def picture(scope: Scope, title: str, exprs: Mapping[str, str], *, unit: str = "", text: str = "") -> Panel:
    """Any expressions with one series per label of the scope, by the name of their curve."""
    return Panel(title, _targets(scope, exprs), unit, text)


def stat(scope: Scope, title: str, exprs: Mapping[str, str], *, unit: str = "", text: str = "", bad_from: float | None = None) -> Panel:
    """The same as present values, large."""
    return Panel(title, _targets(scope, exprs), unit, text, kind="stat", bad_from=bad_from, sparkline=len(exprs) == 1)


def _panel(
    scope: Scope,
    title: str,
    names: tuple[str, ...],
    read: Read,
    *,
    unit: str | None = None,
    logarithmic: bool = False,
    summed: bool = True,
) -> Panel:
    metrics = [DECLARED[name] for name in names]
    mixed = len({name.partition("/")[0] for name in names}) > 1
    called = [legend(metric, with_area=mixed) for metric in metrics]
    targets = _targets(scope, dict(zip(called, map(read, metrics), strict=True)), summed=summed)
    helps = [f"- {name}: {metric.help}" for name, metric in zip(called, metrics, strict=True)]
    text = metrics[0].help if len(metrics) == 1 else "\n".join(helps)
    return Panel(title, targets, metrics[0].unit if unit is None else unit, text, logarithmic=logarithmic)


def _targets(scope: Scope, exprs: Mapping[str, str], *, summed: bool = True) -> tuple[Target, ...]:
    return tuple(Target(expr, scope.curve(name, summed=summed)) for name, expr in exprs.items())
