"""The live view of a run: a pure picture of the latest figures, drawn anew by rich as often as it likes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from services.telemetry.figures import NOTHING, clock, fixed, number, share, sparkline

NARROW = 90
"""Columns below which the two tables stand one above the other."""

Clock = Callable[[], float]


class View:
    """What a person wants to know at a glance; `step` and `observe` feed it from any thread."""

    def __init__(self, *, run_name: str, steps: int, now: Clock = time.monotonic) -> None:
        self._run_name = run_name
        self._steps = steps
        self._now = now
        self._started = self._stepped = now()
        self._stopped: float | None = None
        self._step = 0
        self._latest: dict[str, float] = {}
        self._rewards: deque[float] = deque(maxlen=64)
        self._held_out: list[tuple[int, float]] = []  # (step, sampled accuracy), the first and the last

    def observe(self, metrics: Mapping[str, float]) -> None:
        """Take fresh figures in; the step stays."""
        self._latest = {**self._latest, **metrics}
        if "eval/sampled" in metrics:
            self._held_out = [*self._held_out[:1], (self._step, metrics["eval/sampled"])]

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take a finished step in."""
        self._step, self._stepped = step, self._now()
        self.observe(metrics)
        if "reward/mean" in metrics:
            self._rewards.append(metrics["reward/mean"])

    def stop(self) -> None:
        """Freeze the clock: the last picture stays on the screen."""
        self._stopped = self._stopped or self._now()

    def __rich__(self) -> RenderableType:
        body: RenderableType = Group(self._progress(), Text(), self._headline(), Text(), _Columns(self._stages(), self._learning()))
        if not self._latest:
            body = Text(f"starting  {clock(self._elapsed)}", style="dim")
        title = Text.assemble((" gmpo ", "bold"), ("· ", "dim"), (f"{self._run_name} ", "bold cyan"))
        return Panel(body, title=title, title_align="left", border_style="dim", padding=(0, 2))

    @property
    def _elapsed(self) -> float:
        return (self._stopped or self._now()) - self._started

    def _progress(self) -> RenderableType:
        left = self._latest.get("run/eta_s")
        if left is not None:
            left -= (self._stopped or self._now()) - self._stepped
        row = Table.grid(expand=True, padding=(0, 2))
        row.add_column(no_wrap=True)
        row.add_column(ratio=1)
        row.add_column(no_wrap=True, justify="right")
        row.add_row(
            Text.assemble("step ", (f"{self._step}", "bold"), (f"/{self._steps}", "dim")),
            ProgressBar(total=max(self._steps, 1), completed=self._step, complete_style="cyan", finished_style="green"),
            Text.assemble((clock(self._elapsed), "bold"), (" gone  ", "dim"), (clock(left), "bold"), (" left", "dim")),
        )
        return row

    def _headline(self) -> RenderableType:
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="dim", no_wrap=True)
        grid.add_column(no_wrap=True)
        grid.add_column(no_wrap=True, style="cyan", overflow="crop")
        grid.add_row("reward", Text(fixed(self._latest.get("reward/mean")), style="bold"), sparkline(self._rewards))
        grid.add_row("held-out", *self._accuracy())
        return grid

    def _accuracy(self) -> tuple[Text, Text]:
        if not self._held_out:
            return Text(NOTHING), Text()
        (_, first), (step, last) = self._held_out[0], self._held_out[-1]
        greedy = self._latest.get("eval/greedy")
        note = Text.assemble((f"from {fixed(first)}, at step {step}", "dim"))
        if greedy is not None:
            note.append(f", greedy {fixed(greedy)}", style="dim")
        return Text(fixed(last), style="bold green" if last > first else "bold"), note

    def _stages(self) -> Table:
        get = self._latest.get
        return _table(
            {
                "generation": (number(get("generation/tokens_per_s")), f"tokens/s, {number(get('generation/running'))} running"),
                "trained on": (number(get("step/samples_per_s")), "responses/s"),
                "queue": (number(get("queue/depth")), f"ready, {number(get('queue/claimed'))} claimed"),
                "learner": (number(get("learner/tokens_per_s")), "tokens/s"),
                "staleness": (number(get("staleness/mean")), f"mean, {number(get('staleness/max'))} max"),
                "step time": (number(get("step/seconds")), f"s, weights {number(get('weights/pause_s'))} s"),
            }
        )

    def _learning(self) -> Table:
        get = self._latest.get
        return _table(
            {
                "entropy": (fixed(get("learner/entropy")), "nats"),
                "KL to start": (number(get("learner/kl_ref")), "nats"),
                "log-ratio": (number(get("learner/log_ratio_min"), digits=2), f"to {number(get('learner/log_ratio_max'), digits=2)}"),
                "clipped": (share(get("learner/clip_fraction")), "where the clip binds"),
                "grad norm": (number(get("learner/grad_norm")), ""),
                "mismatch": (number(get("learner/mismatch"), digits=2), "nats, engine to learner"),
            }
        )


class _Columns:
    """Two tables side by side where there is room, else one above the other."""

    def __init__(self, left: Table, right: Table) -> None:
        self._left, self._right = left, right

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if options.max_width < NARROW:
            yield from (self._left, self._right)
            return
        both = Table.grid(padding=(0, 4))
        both.add_row(self._left, self._right)
        yield both


def _table(rows: Mapping[str, tuple[str, str]]) -> Table:
    grid = Table.grid(padding=(0, 1))
    grid.add_column(style="dim", no_wrap=True, min_width=11)
    grid.add_column(justify="right", style="bold", no_wrap=True, min_width=8)
    grid.add_column(style="dim", no_wrap=True)
    for name, (value, note) in rows.items():
        grid.add_row(name, value, note)
    return grid
