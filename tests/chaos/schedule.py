"""What is done to a run, drawn from a seed: at which step, to which process, and whether that dies, hangs, or stands still for a while."""

from __future__ import annotations

import random
from dataclasses import dataclass

DRIVER = "driver"
WATCHED = ("Engine", "Verifier", "ReferenceScorer")
"""Actors whose hanging must be noticed; the others only pause."""
OTHERS = ("ReplayQueue", "RayTrainWorker", DRIVER)

LONGEST_PAUSE_S = 5.0
START_S = 40.0
"""About as long as a run takes to its first step."""


@dataclass(frozen=True, slots=True)
class Harm:
    """One blow."""

    step: int  # once this step is logged; 0: from the start on
    delay_s: float  # and so much later
    kind: str  # an actor's class, or DRIVER
    which: float  # in [0, 1), picks among several
    how: str  # "kill", "hang" or "pause"
    pause_s: float

    def __str__(self) -> str:
        lasting = f" {self.pause_s:.1f} s" if self.how == "pause" else ""
        return f"{self.how} {self.kind}{lasting} at step {self.step} + {self.delay_s:.1f} s"


@dataclass(frozen=True, slots=True)
class Schedule:
    """One run's fate."""

    seed: int
    engines: int
    harms: tuple[Harm, ...]  # in order of their steps


def draw(seed: int, *, steps: int) -> Schedule:
    """Three to five harms, spread over the run."""
    dice = random.Random(seed)
    harms = [_harm(dice, steps) for _ in range(dice.randint(3, 5))]
    return Schedule(seed, dice.choice((1, 2)), tuple(sorted(harms, key=lambda harm: (harm.step, harm.delay_s))))


def _harm(dice: random.Random, steps: int) -> Harm:
    kind = dice.choice(WATCHED + OTHERS)
    step = dice.randrange(steps)
    lasting = "hang" if kind in WATCHED and step else "pause"  # what hangs before the first step keeps the run from starting at all
    how = dice.choice(("kill", "kill", lasting))
    delay_s = dice.uniform(0, 1.5 if step else START_S)
    return Harm(step, delay_s, kind, dice.random(), how, dice.uniform(0.5, LONGEST_PAUSE_S))
