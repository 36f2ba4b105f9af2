"""Remarks on a study's figures, made by rule from the figures themselves."""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import median

from services.compare.measures import MEASURES, started
from services.study import tables
from services.study.cautions import cautions
from services.study.claims import FEWEST_PAIRS
from services.study.measures import by_seed, collapsed
from services.study.records import Ended, Records
from services.study.statistics import two_sided_chance
from services.study.tables import number


def remarks(records: Records) -> Iterator[str]:
    """What stands out in the figures, told by rule."""
    accuracy = MEASURES["accuracy"]
    before = [share for run in records.ended if math.isfinite(share := started(run.curves))]
    if before:
        yield f"Before the first step the held-out accuracy is {number(median(before), 3)} (median of {len(before)} runs)."
    figures = {
        levels: [share for share in by_seed(accuracy, runs).values() if math.isfinite(share)] for levels, runs in records.runs.items()
    }
    cells = {levels: shares for levels, shares in figures.items() if shares}
    middles = {"-".join(levels): median(shares) for levels, shares in cells.items()}
    if middles and (best := max(middles, key=middles.__getitem__)) != (worst := min(middles, key=middles.__getitem__)):
        yield f"Most accurate at the end: {best} ({number(middles[best], 3)}); least: {worst} ({number(middles[worst], 3)})."
    ranges = [max(shares) - min(shares) for shares in cells.values() if len(shares) > 1]
    if ranges:
        yield f"Between the seeds of one cell the final accuracy differs by {number(median(ranges), 3)} (median over the cells)."
    if gone := [name_of(run) for run in records.ended if collapsed(run)]:
        yield f"Collapsed: {', '.join(gone)}."
    yield from _by_chance(records)
    yield from cautions(records)


def _by_chance(records: Records) -> Iterator[str]:
    found = [one for one in tables.differences(records) if one.spread.n >= FEWEST_PAIRS]
    if found:
        clear = sum(one.spread.low > 0 or one.spread.high < 0 for one in found)
        chance = sum(two_sided_chance(one.spread.n) for one in found)
        yield (
            f"Of the {len(found)} differences in the tables below, {clear} have a range or interval on one side of 0; if nothing made a "
            f"difference, about {chance:.0f} would. They are not independent: the measures of a run go together."
        )


def name_of(run: Ended) -> str:
    """Of a run, in a sentence."""
    return f"{run.cell.name} (seed {run.seed})"
