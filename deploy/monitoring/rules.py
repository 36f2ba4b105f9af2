"""Alerts and recording rules as data, and as the rule file that Prometheus reads.

An alert's `description` and `summary` are Prometheus templates; the runbook of alert `GmpoX` is the section `### GmpoX` of
docs/monitoring.md, and the chart puts `monitoring.prometheusRule.runbookBase` before its path.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import yaml

Severity = Literal["critical", "warning", "info"]
REMEMBERED = "6h"
"""How long a page that vanished is spoken of."""
HEAD = "# Written by `python -m deploy.monitoring`. Do not edit.\n"


@dataclass(frozen=True, slots=True)
class Record:
    """An expression that Prometheus evaluates once for all who use it."""

    name: str
    expr: str

    def rule(self) -> dict[str, Any]:
        """As Prometheus spells it."""
        return {"record": self.name, "expr": self.expr}


@dataclass(frozen=True, slots=True)
class Alert:
    """critical: someone must act now; warning: today; info: worth knowing when something else is wrong."""

    name: str
    severity: Severity
    lasting: str
    """How long it must hold before it fires."""
    expr: str
    summary: str
    description: str

    @property
    def runbook(self) -> str:
        """Where to read what to do, from the repository's root."""
        return f"docs/monitoring.md#{self.name.lower()}"

    def rule(self) -> dict[str, Any]:
        """As Prometheus spells it."""
        return {
            "alert": self.name,
            "expr": self.expr,
            "for": self.lasting,
            "labels": {"severity": self.severity},
            "annotations": {"summary": self.summary, "description": self.description, "runbook_url": self.runbook},
        }


@dataclass(frozen=True, slots=True)
class Group:
    """Rules that are evaluated in order, so that alerts may use the records above them."""

    name: str
    rules: tuple[Record | Alert, ...]


def rule_file(groups: Iterable[Group]) -> str:
    """The groups as YAML."""
    tree = {"groups": [{"name": group.name, "rules": [rule.rule() for rule in group.rules]} for group in groups]}
    return HEAD + yaml.safe_dump(tree, sort_keys=False, width=140, allow_unicode=True)
