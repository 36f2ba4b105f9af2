"""PromQL over declared metrics.

On the dashboards every series of a run is joined with gmpo_run_info, which stands on the same page and says which run it is: a resumed
run is one curve though its driver moved. Counters are read as rates or increases over Grafana's variable `$window`, since a step may
take long.
"""

from __future__ import annotations

from dataclasses import dataclass

from services.telemetry.metrics import ENDPOINT_METRICS, METRICS, Metric
from services.telemetry.prometheus import FAMILY_LABEL

DECLARED = {metric.name: metric for metric in (*METRICS, *ENDPOINT_METRICS)}


def series(*names: str) -> tuple[str, ...]:
    """What Prometheus calls these metrics; KeyError for one that nobody declared."""
    return tuple(DECLARED[name].prometheus_name for name in names)


@dataclass(frozen=True, slots=True)
class Scope:
    """Which series a dashboard is about."""

    label: str
    """Tells apart what is summed up."""
    window: str
    """How far back counters and histograms are read."""
    selector: str = ""
    """Between braces, behind each metric's name."""
    join: str = ""
    """Behind each expression."""
    each: str = ""
    """Tells apart, beside `label`, what is not summed up; empty where there is one series of a label."""

    def curve(self, name: str, *, summed: bool) -> str:
        """The legend of a curve."""
        labels = [self.label] if summed or not self.each else [self.label, self.each]
        return " · ".join((name, *(f"{{{{{label}}}}}" for label in labels)))

    def series(self, expr: str) -> str:
        """The expression's series that are in scope, with the label."""
        return f"{expr}{self.join}"

    def name(self, metric: Metric, suffix: str = "") -> str:
        """A metric with its selector."""
        return f"{metric.prometheus_name}{suffix}{self.selector}"

    def present(self, metric: Metric) -> str:
        """A gauge as it stands."""
        return self.series(self.name(metric))

    def rate(self, metric: Metric) -> str:
        """A counter per second."""
        return self._summed(metric, f"rate({self.name(metric)}[{self.window}])")

    def increase(self, metric: Metric) -> str:
        """A counter over the window."""
        return self._summed(metric, f"increase({self.name(metric)}[{self.window}])")

    def share(self, metric: Metric, whole: Metric) -> str:
        """One counter's share of another."""
        return f"{self.rate(metric)} / {self.rate(whole)}"

    def mean(self, metric: Metric) -> str:
        """Mean of a histogram's observations."""
        total, count = (self._summed(metric, f"rate({self.name(metric, part)}[{self.window}])") for part in ("_sum", "_count"))
        return f"{total} / {count}"

    def quantile(self, metric: Metric, share: float) -> str:
        """Estimated from a histogram's buckets."""
        buckets = self.series(f"rate({self.name(metric, '_bucket')}[{self.window}])")
        return f"histogram_quantile({share:g}, sum by (le, {self.label}) ({buckets}))"

    def _summed(self, metric: Metric, expr: str) -> str:
        return f"sum by ({', '.join((self.label, *metric.labels))}) ({self.series(expr)})"


RUN = Scope("run", "$window", join=' * on (job, instance) group_left (run) gmpo_run_info{run=~"$run"}')
ENDPOINT = Scope("job", "$window", selector='{job=~"$job"}', each="instance")


def legend(metric: Metric, *, with_area: bool = False) -> str:
    """What tells the series of one metric apart; its area where a panel has metrics of several."""
    if metric.family:
        return f"{{{{{FAMILY_LABEL}}}}}"
    if metric.labels:
        return " ".join(f"{{{{{label}}}}}" for label in metric.labels)
    area, _, thing = metric.name.partition("/")
    thing = thing.removesuffix("_s").removesuffix("_per").removesuffix("seconds").replace("_", " ")
    return f"{area} {thing}".strip() if with_area else thing
