"""The screen: one view redrawn in place on a terminal, a line per step elsewhere. Nothing else in this project writes to it.

with open_console("auto", run_name="tiny", steps=60) as console:
    console.event("engines up in 21.3 s")
    console.step(1, metrics)
"""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Literal, Self

import rich.console
from rich.live import Live

from services.telemetry.figures import NOTHING, clock, fixed, number, share
from services.telemetry.view import View


def screen(*, stderr: bool = False) -> rich.console.Console:
    """A console for what a command prints: text as it is, neither coloured nor wrapped by guesswork."""
    return rich.console.Console(stderr=stderr, highlight=False, soft_wrap=True)


class Console:
    """Shows nothing; the base of those that do. Usable as a context manager, which closes it."""

    def event(self, text: str) -> None:
        """Say that something happened once: a phase of the start-up, an engine replaced, a version promoted."""

    def observe(self, metrics: Mapping[str, float]) -> None:
        """Show fresh figures between two steps."""

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show the figures of a finished step."""

    def close(self) -> None:
        """Leave the screen as it stands; may be called twice."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class PlainConsole(Console):
    """One line per event and step, for logs."""

    def __init__(self, out: rich.console.Console, *, steps: int) -> None:
        self._out = out
        self._steps = steps

    def event(self, text: str) -> None:
        self._out.print(text, markup=False)

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        self._out.print(step_line(step, self._steps, metrics), markup=False)


class LiveConsole(Console):
    """The live view; events scroll above it. What others write to stdout meanwhile appears above it too."""

    def __init__(self, out: rich.console.Console, *, run_name: str, steps: int) -> None:
        self._view = View(run_name=run_name, steps=steps)
        self._live = Live(self._view, console=out, refresh_per_second=4)
        self._live.start()

    def event(self, text: str) -> None:
        self._live.console.print(text, markup=False)

    def observe(self, metrics: Mapping[str, float]) -> None:
        self._view.observe(metrics)

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        self._view.step(step, metrics)

    def close(self) -> None:
        self._view.stop()
        self._live.stop()


def open_console(
    mode: Literal["auto", "live", "plain", "off"], *, run_name: str, steps: int, out: rich.console.Console | None = None
) -> Console:
    """The console that `mode` asks for; `steps` is the last step of the run."""
    out = out or screen()
    if mode == "auto":
        mode = "live" if out.file.isatty() and not out.is_dumb_terminal else "plain"
    match mode:
        case "live":
            return LiveConsole(out, run_name=run_name, steps=steps)
        case "plain":
            return PlainConsole(out, steps=steps)
        case "off":
            return Console()


def step_line(step: int, steps: int, metrics: Mapping[str, float]) -> str:
    """A step in one line, leaving out what is not known."""
    get = metrics.get
    parts = {
        "reward": fixed(get("reward/mean")),
        "right": share(get("reward/right")),
        "held-out": fixed(get("eval/sampled")),
        "greedy": fixed(get("eval/greedy")),
        "kl": number(get("learner/kl_ref")),
        "entropy": fixed(get("learner/entropy")),
        "clip": share(get("learner/clip_fraction")),
        "mismatch": number(get("learner/mismatch"), digits=2),
        "stale": number(get("staleness/max")),
        "queue": number(get("queue/depth")),
        "tok/s": number(get("generation/tokens_per_s")),
        "seconds": number(get("step/seconds")),
        "eta": clock(get("run/eta_s")),
    }
    return "  ".join([f"step {step}/{steps}", *(f"{name} {text}" for name, text in parts.items() if text != NOTHING)])
