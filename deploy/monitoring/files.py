"""What the chart ships: one plain Prometheus rule file, and two Grafana dashboards."""

from __future__ import annotations

import json
from pathlib import Path

from deploy.monitoring.endpoint_alerts import ENDPOINT_GROUPS
from deploy.monitoring.endpoint_board import ENDPOINT_BOARD
from deploy.monitoring.rules import Group, rule_file
from deploy.monitoring.run_alerts import RUN_GROUPS
from deploy.monitoring.run_board import RUN_BOARD

FOLDER = Path(__file__).parents[2] / "helm" / "gmpo" / "files" / "monitoring"
GROUPS: tuple[Group, ...] = (*RUN_GROUPS, *ENDPOINT_GROUPS)
BOARDS = {"dashboards/run.json": RUN_BOARD, "dashboards/endpoint.json": ENDPOINT_BOARD}


def rendered() -> dict[str, str]:
    """Path below `FOLDER` -> text."""
    boards = {path: json.dumps(board.model(), indent=2) + "\n" for path, board in BOARDS.items()}
    return {"rules.yaml": rule_file(GROUPS), **boards}
