"""Cases as the test file of `promtool test rules`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deploy.monitoring.files import GROUPS
from deploy.monitoring.rules import Alert
from tests.deploy.monitoring.cases import ENDPOINT, HEALTHY, RUN, Case, Quiet, Series, Subject

ALERTS = {rule.name: rule for group in GROUPS for rule in group.rules if isinstance(rule, Alert)}
RUN_NAME = "tiny"
LABELS = {"run": RUN, "endpoint": ENDPOINT}


def rule_tests(rules: Path, cases: tuple[Case | Quiet, ...]) -> dict[str, Any]:
    """Every case with its own series; the rules are evaluated once a minute."""
    return {"rule_files": [str(rules)], "evaluation_interval": "1m", "tests": [_test(case) for case in cases]}


def _test(case: Case | Quiet) -> dict[str, Any]:
    firing = (case.alert, *case.also) if isinstance(case, Case) else ()
    expected = [_stays_quiet(case, name) for name in ALERTS if name not in firing]
    if isinstance(case, Case):
        expected.append(_fires(case))
    name = case.alert if isinstance(case, Case) else case.why
    return {"interval": "1m", "name": name, "input_series": _series(case.subject, case.changes), "alert_rule_test": expected}


def _series(subject: Subject, changes: Series) -> list[dict[str, str]]:
    return [{"series": _labelled(subject, name), "values": values} for name, values in {**HEALTHY[subject], **changes}.items()]


def _labelled(subject: Subject, name: str) -> str:
    metric, _, own = name.removesuffix("}").partition("{")
    extra = {"gmpo_run_info": f'run="{RUN_NAME}"', "up": 'gmpo_component="endpoint"'}.get(metric, "")
    labels = _parsed(LABELS[subject]) | _parsed(extra) | _parsed(own)
    return metric + "{" + ",".join(f'{label}="{value}"' for label, value in labels.items()) + "}"


def _parsed(labels: str) -> dict[str, str]:
    return dict(pair.replace('"', "").split("=", 1) for pair in labels.split(",") if pair)


def _stays_quiet(case: Case | Quiet, name: str) -> dict[str, Any]:
    return {"eval_time": f"{case.minute}m", "alertname": name, "exp_alerts": []}


def _fires(case: Case) -> dict[str, Any]:
    alert = ALERTS[case.alert]
    labels = dict(case.labels) or _labels(case.subject)
    summary = alert.summary.replace("{{ $labels.run }}", RUN_NAME).replace("{{ $labels.job }}", labels.get("job", ""))
    annotations = {"summary": summary, "description": case.says, "runbook_url": alert.runbook}
    fired = {"exp_labels": labels | {"severity": alert.severity}, "exp_annotations": annotations}
    return {"eval_time": f"{case.minute}m", "alertname": case.alert, "exp_alerts": [fired]}


def _labels(subject: Subject) -> dict[str, str]:
    return _parsed(LABELS[subject]) | ({"run": RUN_NAME} if subject == "run" else {})
