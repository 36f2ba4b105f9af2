"""Panels, and a dashboard of them in Grafana's JSON model.

Rows of panels fill a grid of 24 columns from left to right and top to bottom, so none can overlap. The data source is a variable:
the dashboards work in any Grafana.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

COLUMNS = 24
SCHEMA = 39
"""Version of the dashboard model, Grafana 11's; later ones migrate it."""
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
UNITS = {
    "seconds": "s",
    "fraction": "percentunit",
    "bytes": "bytes",
    "bytes_per_second": "Bps",
    "": "short",
}
"""Grafana's names for units; what it has no name for is written beside the axis."""


@dataclass(frozen=True, slots=True)
class Target:
    """One expression and the name of its curves."""

    expr: str
    legend: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture."""

    title: str
    targets: tuple[Target, ...]
    unit: str = ""
    """As Prometheus spells it."""
    text: str = ""
    """Behind the panel's (i)."""
    kind: Literal["timeseries", "stat"] = "timeseries"
    logarithmic: bool = False
    bad_from: float | None = None
    """Value from which on a stat is red; without one it is plain."""
    sparkline: bool = False

    def model(self, number: int, place: dict[str, int]) -> dict[str, Any]:
        """In Grafana's model."""
        targets = [
            {"refId": chr(ord("A") + index), "datasource": SOURCE, "expr": target.expr, "legendFormat": target.legend}
            for index, target in enumerate(self.targets)
        ]
        drawn = self._stat() if self.kind == "stat" else self._curves()
        head = {"id": number, "type": self.kind, "title": self.title, "description": self.text, "gridPos": place, "datasource": SOURCE}
        return {**head, "targets": targets, **drawn}

    @property
    def _unit(self) -> dict[str, str]:
        return {"unit": UNITS.get(self.unit, "short")}

    def _curves(self) -> dict[str, Any]:
        beside = "" if self.unit in UNITS else self.unit.replace("_per_second", "/s").replace("_", " ")
        custom: dict[str, Any] = {"lineWidth": 1, "fillOpacity": 5, "showPoints": "never", "spanNulls": False, "axisLabel": beside}
        if self.logarithmic:
            custom["scaleDistribution"] = {"type": "log", "log": 10}
        shown = {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []}
        return {
            "fieldConfig": {"defaults": {**self._unit, "custom": custom}, "overrides": []},
            "options": {"legend": shown, "tooltip": {"mode": "multi", "sort": "none"}},
        }

    def _stat(self) -> dict[str, Any]:
        steps: list[dict[str, Any]] = [{"color": "text" if self.bad_from is None else "green", "value": None}]
        if self.bad_from is not None:
            steps.append({"color": "red", "value": self.bad_from})
        return {
            "fieldConfig": {"defaults": {**self._unit, "thresholds": {"mode": "absolute", "steps": steps}}, "overrides": []},
            "options": {
                "colorMode": "value",
                "graphMode": "area" if self.sparkline else "none",
                "textMode": "auto",  # names, where there are several values
                "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            },
        }


@dataclass(frozen=True, slots=True)
class Row:
    """Panels under one heading, so many beside each other."""

    title: str
    panels: tuple[Panel, ...]
    across: int = 3
    height: int = 8


@dataclass(frozen=True, slots=True)
class Variable:
    """A choice at the top among the values that a query finds; several may be chosen."""

    name: str
    text: str
    query: str

    def model(self) -> dict[str, Any]:
        """In Grafana's model."""
        query = {"query": self.query, "refId": self.name}
        asked = {"query": query, "definition": self.query, "datasource": SOURCE, "refresh": 2, "sort": 2}
        return {"name": self.name, "label": self.text, "type": "query", "hide": 0, "multi": True, "includeAll": False, **asked}


@dataclass(frozen=True, slots=True)
class Choice:
    """A choice at the top of one among a few values."""

    name: str
    text: str
    values: tuple[str, ...]
    default: str

    def model(self) -> dict[str, Any]:
        """In Grafana's model."""
        options = [{"text": value, "value": value, "selected": value == self.default} for value in self.values]
        given = {"query": ",".join(self.values), "options": options, "current": {"text": self.default, "value": self.default}}
        return {"name": self.name, "label": self.text, "type": "custom", "hide": 0, "multi": False, "includeAll": False, **given}


@dataclass(frozen=True, slots=True)
class Board:
    """A dashboard."""

    uid: str
    title: str
    text: str
    variables: tuple[Variable | Choice, ...]
    rows: tuple[Row, ...]

    def panels(self) -> Iterator[Panel]:
        """All pictures."""
        for row in self.rows:
            yield from row.panels

    def model(self) -> dict[str, Any]:
        """In Grafana's model; the same every time."""
        source = {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "hide": 0}
        return {
            "uid": self.uid,
            "title": self.title,
            "description": self.text,
            "tags": ["gmpo"],
            "schemaVersion": SCHEMA,
            "version": 1,
            "editable": True,
            "graphTooltip": 1,
            "refresh": "30s",
            "time": {"from": "now-6h", "to": "now"},
            "timezone": "browser",
            "templating": {"list": [source, *(variable.model() for variable in self.variables)]},
            "annotations": {"list": []},
            "panels": list(self._laid_out()),
        }

    def _laid_out(self) -> Iterator[dict[str, Any]]:
        number, y = 0, 0
        for row in self.rows:
            number += 1
            heading = {"x": 0, "y": y, "w": COLUMNS, "h": 1}
            yield {"id": number, "type": "row", "title": row.title, "collapsed": False, "gridPos": heading, "panels": []}
            y, width = y + 1, COLUMNS // row.across
            for index, panel in enumerate(row.panels):
                number += 1
                column = index % row.across
                yield panel.model(number, {"x": column * width, "y": y, "w": width, "h": row.height})
                if column == row.across - 1 or index == len(row.panels) - 1:
                    y += row.height
