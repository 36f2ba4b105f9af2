from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console

from services.bench.results import Aim, Report, Spread, ratios
from services.bench.table import show


def report() -> Report:
    spread = ratios([90.0, 110.0, 100.0], [100.0, 100.0, 100.0])
    return Report(
        bench="learner",
        device="CPU, a name in [brackets]",
        settings={"tokens": 512},
        rows=[{"way": "gmpo", "tokens_per_s": 12_345.6, "mfu": None}, {"way": "bare", "tokens_per_s": 0.25, "mfu": None}],
        ratios={"gmpo_over_bare": spread},
        aims=[Aim.at_least("gmpo_over_bare", 0.97, spread)],
        notes=["how to read it"],
    )


def test_a_ratio_is_of_the_same_round_and_keeps_its_spread() -> None:
    assert ratios([1.0, 4.0, 9.0], [1.0, 2.0, 3.0]) == Spread(2.0, 1.0, 3.0, 3)


def test_an_aim_knows_its_direction() -> None:
    spread = Spread(0.9, 0.8, 1.0, 3)
    assert not Aim.at_least("r", 0.97, spread).met and Aim.at_most("r", 0.97, spread).met
    assert Aim.at_least("r", 0.9, spread).met and Aim.at_most("r", 0.9, spread).met


def test_the_json_says_what_was_measured_where_and_whether_the_aims_are_met(tmp_path: Path) -> None:
    report().write(tmp_path / "new" / "learner.json")
    found = json.loads((tmp_path / "new" / "learner.json").read_text())
    assert found.keys() >= {"bench", "device", "cpu_count", "versions", "date", "settings", "rows", "ratios", "aims"}
    assert found["versions"].keys() >= {"torch", "transformers", "numpy", "python"}
    assert found["ratios"]["gmpo_over_bare"] == {"median": 1.0, "low": 0.9, "high": 1.1, "repeats": 3}
    assert found["aims"][0]["met"] is True


def test_the_table_breaks_no_figure_on_a_narrow_screen_and_leaves_out_what_nobody_has(tmp_path: Path) -> None:
    with (tmp_path / "out").open("w") as file:
        show(report(), Console(width=20, file=file))
    text = (tmp_path / "out").read_text()
    assert "12,346" in text and "at least 0.97: met" in text and "[brackets]" in text and "mfu" not in text
    assert next(line for line in text.splitlines() if line.startswith("gmpo ")).endswith("12,346")
