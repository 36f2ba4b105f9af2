"""A study's figures as Markdown tables: medians over the seeds with ranges or intervals, and differences to the baseline seed by seed.

A study of one factor has a row for each level and a column for each measure. A study of more has a table for each measure: the first
factor's levels down, the second's across, and a block of rows for each combination of the others'.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from services.compare.measures import MEASURES, Measure
from services.study.measures import GROUPS, TOLD, by_seed, collapsed
from services.study.measures import differences as by_pair
from services.study.records import DIVERGED, STOOD_STILL, Records
from services.study.statistics import Paired, Spread, paired, spread_of

SWEPT = tuple(MEASURES[key] for key in ("accuracy", "reward", "clip", "range", "bulk", "entropy", "kl", "kl_mean", "unsteadiness"))
"""What is told of a study of several factors, where each measure takes a table of its own."""
NOTHING = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"

Levels = tuple[str, ...]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def number(value: float, digits: int, *, sign: bool = False) -> str:
    """A value as a person reads it, by powers of ten where it is very great; `sign` puts a plus before what is above 0."""
    rounded = round(value, digits) + 0.0  # minus zero becomes zero
    text = f"{value:.2e}" if abs(value) >= 1e4 else f"{rounded:.{digits}f}"
    return ("+" if sign and rounded > 0 else "") + text.replace("-", MINUS)


def spread_text(spread: Spread | None, digits: int, *, sign: bool = False) -> str:
    """Median and interval; a single value has none."""
    if spread is None:
        return NOTHING
    middle, low, high = (number(value, digits, sign=sign) for value in (spread.median, spread.low, spread.high))
    return f"{middle} ({low} to {high})" if spread.n > 1 else middle


def difference_text(difference: Paired | None, digits: int) -> str:
    """Median difference and interval, and in how many of the seeds it is above 0."""
    if difference is None:
        return NOTHING
    return f"{spread_text(difference.spread, digits, sign=True)}, {difference.above}/{difference.spread.n}"


def one_factor(records: Records) -> Iterator[tuple[str, str]]:
    """(heading, tables) of each group of measures."""
    factor, levels = next(iter(records.study.factors.items()))
    baseline = records.study.baseline
    for heading, measures in GROUPS.items():
        head = [factor, *(measure.head for measure in measures)]
        values = [[level, *(_value(records, measure, (level,)) for measure in measures)] for level in levels]
        others = [level for level in levels if level != baseline]
        against = [[level, *(_against(records, measure, (level,)) for measure in measures)] for level in others]
        yield heading, "\n\n".join((table(head, values), f"Difference to {baseline}, paired by seed:", table(head, against)))


def many_factors(records: Records) -> Iterator[tuple[str, str]]:
    """(heading, table) of each measure."""
    study = records.study
    (first, objectives), (second, columns), *_ = study.factors.items()
    head = [*list(study.factors)[2:], first, *(f"{second} {level}" for level in columns)]
    for measure in SWEPT:
        rows = []
        for rest in itertools.product(*list(study.factors.values())[2:]):
            for level in objectives:
                rows.append([*rest, level, *(_value(records, measure, (level, column, *rest)) for column in columns)])
            for level in objectives:
                if level != study.baseline:
                    against = [_against(records, measure, (level, column, *rest)) for column in columns]
                    rows.append([*rest, f"{level} {MINUS} {study.baseline}", *against])
        yield measure.head, table(head, rows)


def ends(records: Records) -> str:
    """How the runs of each cell ended."""
    study = records.study
    if len(study.factors) == 1:
        factor, levels = next(iter(study.factors.items()))
        return table([factor, "runs that ended"], [[level, ended_text(records, (level,))] for level in levels])
    (first, objectives), (second, columns), *others = study.factors.items()
    head = [*(name for name, _ in others), first, *(f"{second} {level}" for level in columns)]
    combinations = itertools.product(*(levels for _, levels in others), objectives)
    rows = [[*rest, level, *(ended_text(records, (level, column, *rest)) for column in columns)] for *rest, level in combinations]
    return table(head, rows)


def ended_text(records: Records, levels: Levels) -> str:
    """How many of a cell's runs ended, and how many of them not as they should."""
    runs = list(records.runs[levels].values())
    kinds = {
        "diverged": sum(run.outcome == DIVERGED for run in runs),
        "had nothing to learn": sum(run.outcome == STOOD_STILL for run in runs),
        "collapsed": sum(collapsed(run) for run in runs),
    }
    return ", ".join([f"{len(runs)} of {len(records.study.seeds)}", *(f"{count} {kind}" for kind, count in kinds.items() if count)])


def differences(records: Records) -> Iterator[Paired]:
    """All differences to the baseline that the study's tables hold."""
    study = records.study
    measures = TOLD if len(study.factors) == 1 else SWEPT
    for measure in measures:
        for cell in study.cells:
            if cell.levels[0] != study.baseline and (difference := _paired(records, measure, cell.levels)):
                yield difference


def _value(records: Records, measure: Measure, levels: Levels) -> str:
    spread = spread_of(by_seed(measure, records.runs[levels]).values())
    text = spread_text(spread, measure.digits)
    return text if spread is None or spread.n == len(records.study.seeds) else f"{text}, n = {spread.n}"


def _against(records: Records, measure: Measure, levels: Levels) -> str:
    return difference_text(_paired(records, measure, levels), measure.digits)


def _paired(records: Records, measure: Measure, levels: Levels) -> Paired | None:
    baseline = (records.study.baseline, *levels[1:])
    return paired(by_pair(measure, records.runs[levels], records.runs[baseline]))
