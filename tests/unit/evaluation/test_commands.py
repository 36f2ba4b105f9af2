"""What the verb prints, and what it refuses before anything starts."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

from rich.console import Console

from services.config import Recipe, dump
from services.evaluation.commands import table
from tests.unit.evaluation.test_results import result

ROOT = Path(__file__).parents[3]


def test_the_table_is_whole_on_80_columns() -> None:
    out = io.StringIO()
    Console(file=out, width=80).print(table(result(12, 0.25)))
    lines = [line.split() for line in out.getvalue().splitlines()]
    assert lines[0] == ["paper,", "policy@step-12", "(wwwwwwwwwwww)"]
    assert lines[2] == ["aime24", "30", "pass@1", "25.0", "12.5", "to", "50.0", "25.0", "%", "3", "120"]
    assert lines[3] == ["pass@8", "100.0", "90.0", "to", "100.0"]
    assert lines[6][:5] == ["mean", "of", "sets", "30", "pass@1"]
    assert "…" not in out.getvalue()


def test_a_missing_file_ends_it_before_an_endpoint_is_started(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(dump(recipe))
    program = (
        "import sys, typer; from services.evaluation import commands; from actors.errors import UsageError\n"
        "try: commands.evaluate(__import__('pathlib').Path(sys.argv[1]), suite='aime24')\n"
        "except UsageError as error: print(error, 'ray' in sys.modules, 'torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.startswith("suite aime24, set aime24: no such file: aime24.jsonl;")
    assert found.stdout.strip().endswith("False False")
