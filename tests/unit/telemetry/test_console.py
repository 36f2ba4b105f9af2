"""What a person sees: the live view drawn on a terminal of a fixed size, and the line of a log."""

from __future__ import annotations

import io

import rich.console

from services.telemetry.console import open_console
from services.telemetry.figures import clock, number, share, sparkline
from services.telemetry.view import View

FIGURES = {
    "reward/mean": 0.734,
    "reward/right": 0.61,
    "generation/tokens_per_s": 12345.6,
    "queue/depth": 3.0,
    "staleness/mean": 0.4,
    "staleness/max": 1.0,
    "step/seconds": 4.1,
    "learner/mismatch": 3.1e-6,
    "run/eta_s": 700.0,
}


def draw(view: View, *, width: int) -> list[str]:
    out = rich.console.Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    with out.capture() as drawn:
        out.print(view)
    return drawn.get().splitlines()


def test_the_live_view_shows_progress_eta_and_stage_rates() -> None:
    seconds = iter(range(0, 1000, 10))
    view = View(run_name="tiny", steps=200, now=lambda: float(next(seconds)))
    assert "starting" in "\n".join(draw(view, width=100))
    view.step(1, {"eval/sampled": 0.5})
    view.step(42, {**FIGURES, "eval/sampled": 0.861})
    lines = draw(view, width=100)
    text = "\n".join(lines)
    assert all(len(line) == 100 for line in lines)
    for shown in (
        "tiny",
        "step 42/200",
        "left",
        "0.734",
        "12,346 tokens/s",
        "0.861  from 0.500, at step 42",
        "3 ready",
        "1 max",
        "3.1e-06",
    ):
        assert shown in text, shown
    assert "generation" in next(line for line in lines if "entropy" in line)  # side by side


def test_a_narrow_terminal_stacks_the_tables() -> None:
    view = View(run_name="tiny", steps=200)
    view.step(1, FIGURES)
    lines = draw(view, width=60)
    assert all(len(line) == 60 for line in lines)
    assert "generation" not in next(line for line in lines if "entropy" in line)


def test_the_time_left_counts_down_between_steps_and_stops_with_the_run() -> None:
    now = [0.0]
    view = View(run_name="tiny", steps=200, now=lambda: now[0])
    view.step(1, FIGURES)
    now[0] = 100.0
    assert "1:40 gone  10:00 left" in "\n".join(draw(view, width=100))
    view.stop()
    now[0] = 500.0
    assert "1:40 gone  10:00 left" in "\n".join(draw(view, width=100))


def test_away_from_a_terminal_auto_prints_one_line_per_step() -> None:
    file = io.StringIO()
    with open_console("auto", run_name="tiny", steps=200, out=rich.console.Console(file=file, width=40, soft_wrap=True)) as console:
        console.event("engines up in 21.3 s [2 of 2]")
        console.observe({"queue/depth": 9.0})
        console.step(42, FIGURES)
    assert file.getvalue().splitlines() == [
        "engines up in 21.3 s [2 of 2]",
        "step 42/200  reward 0.734  right 61.0 %  mismatch 3.1e-06  stale 1  queue 3  tok/s 12,346  seconds 4.1  eta 11:40",
    ]


def test_live_prints_events_above_the_view_and_may_be_closed_twice() -> None:
    out = rich.console.Console(file=io.StringIO(), width=100, force_terminal=True, highlight=False)
    console = open_console("live", run_name="tiny", steps=200, out=out)
    console.event("engines up [2 of 2]")
    console.step(1, FIGURES)
    console.close()
    console.close()
    assert isinstance(out.file, io.StringIO)
    assert out.file.getvalue().index("engines up [2 of 2]") < out.file.getvalue().index("0.734")


def test_off_prints_nothing() -> None:
    file = io.StringIO()
    with open_console("off", run_name="tiny", steps=1, out=rich.console.Console(file=file)) as console:
        console.event("engines up")
        console.step(1, FIGURES)
    assert file.getvalue() == ""


def test_figures_are_short_and_unknown_ones_are_dashes() -> None:
    assert [number(value) for value in (None, float("nan"), 0, 0.4312, 3.14159e-6, 12345.6, -0.31)] == [
        "–",  # noqa: RUF001
        "–",  # noqa: RUF001
        "0",
        "0.431",
        "3.1e-06",
        "12,346",
        "-0.31",
    ]
    assert [clock(value) for value in (59.6, 192, 3792, 2 * 86400 + 11520)] == ["1:00", "3:12", "1:03:12", "2 d 03:12 h"]
    assert share(0.123) == "12.3 %"
    assert sparkline([0.0, 0.5, float("nan"), 1.0]) == "▁▅█"
    assert sparkline([1.0, 1.0]) == "▁▁"
