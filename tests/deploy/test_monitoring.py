"""Rules and dashboards: made from the declarations, understood by Prometheus, and right about when somebody should look."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.monitoring.expressions import DECLARED
from deploy.monitoring.files import BOARDS, FOLDER, GROUPS, rendered
from deploy.monitoring.grafana import COLUMNS, Board
from deploy.monitoring.rules import Record
from tests.deploy.chart import CI_VALUES, Refused, render, the
from tests.deploy.monitoring.cases import CASES, HEALTHY, QUIETS, Case, Quiet
from tests.deploy.monitoring.promtool import ALERTS, rule_tests
from tests.deploy.tools import ROOT, tool

pytestmark = pytest.mark.deploy

RULES = FOLDER / "rules.yaml"
GPUS = next(path for path in CI_VALUES if path.stem.startswith("multi-node"))
MODELS = {path: json.loads((FOLDER / path).read_text()) for path in BOARDS}
HISTOGRAM = ("_bucket", "_sum", "_count")
OUR_OWN = {"gmpo_run_info", "gmpo_component"}
"""A series that every run's page has, and a label of the endpoint's targets."""


def promtool(*arguments: str | Path) -> str:
    """What it says; it must agree."""
    found = subprocess.run([tool("promtool"), *map(str, arguments)], capture_output=True, text=True, timeout=240)
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


def expressions() -> list[str]:
    """Of all dashboards and rules."""
    drawn = [target["expr"] for model in MODELS.values() for panel in model["panels"] for target in panel.get("targets", ())]
    return drawn + [rule.expr for group in GROUPS for rule in group.rules]


def names() -> set[str]:
    """Every name that a series of ours may have."""
    found = set(OUR_OWN) | {rule.name for group in GROUPS for rule in group.rules if isinstance(rule, Record)}
    for metric in DECLARED.values():
        found |= {metric.prometheus_name + part for part in (HISTOGRAM if metric.kind == "histogram" else ("",))}
    return found


def test_the_files_are_what_the_declarations_make() -> None:
    """Otherwise run `python -m deploy.monitoring`."""
    assert {path: (FOLDER / path).read_text() for path in rendered()} == rendered()


def test_prometheus_understands_the_rules() -> None:
    assert f"{sum(len(group.rules) for group in GROUPS)} rules found" in promtool("check", "rules", RULES)


def test_every_alert_fires_where_it_should_and_nothing_where_all_is_well(tmp_path: Path) -> None:
    assert {case.alert for case in CASES} == set(ALERTS)
    tests = tmp_path / "tests.yaml"
    tests.write_text(yaml.safe_dump(rule_tests(RULES, (*CASES, *QUIETS)), allow_unicode=True))
    promtool("test", "rules", tests)


def test_every_alert_has_its_section_in_the_runbook() -> None:
    headings = re.findall(r"^#+ (.+)$", (ROOT / "docs" / "monitoring.md").read_text(), re.MULTILINE)
    assert set(ALERTS) == {heading for heading in headings if heading.startswith("Gmpo")}
    assert all(alert.runbook == f"docs/monitoring.md#{name.lower()}" for name, alert in ALERTS.items())


@pytest.mark.parametrize(
    ("base", "before"),
    [("", ""), ("https://git.example.com/gmpo/blob/main/", "https://git.example.com/gmpo/blob/main/"), ("http://docs/x", "http://docs/x/")],
)
def test_the_chart_says_where_the_runbook_is(base: str, before: str) -> None:
    found = the(render(GPUS, {"monitoring": {"prometheusRule": {"runbookBase": base}}}), "PrometheusRule")
    rules = [rule for group in found["spec"]["groups"] for rule in group["rules"] if "alert" in rule]
    assert {rule["alert"]: rule["annotations"]["runbook_url"] for rule in rules} == {
        name: before + alert.runbook for name, alert in ALERTS.items()
    }


def test_a_runbook_is_an_address_or_a_path() -> None:
    with pytest.raises(Refused, match="runbookBase"):
        render(GPUS, {"monitoring": {"prometheusRule": {"runbookBase": "git.example.com"}}})


@pytest.mark.parametrize(("values", "scraped"), [("multi-node", True), ("shared-cluster", False), ("existing-cluster", False)])
def test_the_runs_page_is_scraped_where_there_is_one(values: str, scraped: bool) -> None:
    (example,) = (path for path in CI_VALUES if path.stem == f"{values}-values")
    objects = render(example, {"monitoring": {"podMonitor": {"enabled": True}}})
    ports = {each["port"] for each in the(objects, "PodMonitor")["spec"]["podMetricsEndpoints"]}
    assert ("run-metrics" in ports) == scraped == ("telemetry.prometheus.port" in the(objects, "RayJob")["spec"]["entrypoint"])


def test_every_declared_metric_is_drawn() -> None:
    drawn = set(
        re.findall(r"\w+", " ".join(target.expr for board in BOARDS.values() for panel in board.panels() for target in panel.targets))
    )
    parts = {metric.name: (*HISTOGRAM, "") if metric.kind == "histogram" else ("",) for metric in DECLARED.values()}
    hidden = [name for name, metric in DECLARED.items() if not drawn & {metric.prometheus_name + part for part in parts[name]}]
    assert hidden == []


def test_no_expression_names_a_series_that_nobody_declared() -> None:
    named = {name for expr in expressions() for name in re.findall(r"(?:\w+:)?gmpo_[\w:]+", expr)}
    assert named - names() == set()
    cases: tuple[Case | Quiet, ...] = (*CASES, *QUIETS)
    assumed = {name.partition("{")[0] for case in cases for name in (*HEALTHY[case.subject], *case.changes)}
    assert assumed - names() == {"up"}


def test_prometheus_understands_every_expression_of_the_dashboards(tmp_path: Path) -> None:
    exprs = [re.sub(r"\$window", "5m", expr) for expr in expressions()]
    group = {"name": "drawn", "rules": [{"record": f"drawn:{number}", "expr": expr} for number, expr in enumerate(exprs)]}
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [group]}))
    assert f"{len(exprs)} rules found" in promtool("check", "rules", file)


@pytest.mark.parametrize("path", MODELS)
def test_a_dashboard_loads_anywhere(path: str) -> None:
    model = MODELS[path]
    assert model["uid"] == f"gmpo-{Path(path).stem}" and model["schemaVersion"] >= 36 and "id" not in model
    variables = {variable["name"]: variable for variable in model["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    sources = [panel["datasource"] for panel in model["panels"] if panel["type"] != "row"]
    sources += [target["datasource"] for panel in model["panels"] for target in panel.get("targets", ())]
    assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in sources)
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(model["panels"])))
    assert used == variables.keys()
    assert len({panel["id"] for panel in model["panels"]}) == len(model["panels"])
    assert all(panel["title"] for panel in model["panels"])


@pytest.mark.parametrize(("path", "label"), [("dashboards/run.json", "run"), ("dashboards/endpoint.json", "job")])
def test_every_value_and_curve_has_a_name_of_its_own(path: str, label: str) -> None:
    """However many runs, endpoints and replicas are chosen."""
    for panel in (panel for panel in MODELS[path]["panels"] if panel["type"] != "row"):
        legends = [target["legendFormat"] for target in panel["targets"]]
        assert len(set(legends)) == len(legends), panel["title"]
        for target in panel["targets"]:
            assert f"{{{{{label}}}}}" in target["legendFormat"], panel["title"]
            a_replica_each = label == "job" and not re.search(r"by \((le, )?job\b", target["expr"])
            assert ("{{instance}}" in target["legendFormat"]) == a_replica_each, panel["title"]


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
def test_curves_that_share_an_axis_have_one_unit(board: Board) -> None:
    """A flag beside a count is a flat line."""
    flags = {DECLARED[name].prometheus_name for name in ("weights/digest_ok", "serve/trouble", "eval/running")}
    for panel in board.panels():
        drawn = [set(re.findall(r"\w+", target.expr)) for target in panel.targets]
        assert len(panel.targets) == 1 or not any(names & flags for names in drawn), panel.title


@pytest.mark.parametrize("path", MODELS)
def test_no_panel_covers_another(path: str) -> None:
    def cells(place: dict[str, int]) -> set[tuple[int, int]]:
        return set(itertools.product(range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])))

    panels: list[dict[str, Any]] = MODELS[path]["panels"]
    covered = [cell for panel in panels for cell in cells(panel["gridPos"])]
    assert len(covered) == len(set(covered))
    assert max(x for x, _ in covered) < COLUMNS
