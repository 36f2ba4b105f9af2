"""The results page: what the runs of studies say, and what that says to the paper's claims.

Written from the run directories alone, so that it can be written at any time and always again: of the same runs, byte for byte the same
page and figures. Runs that have not ended are counted and left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from services.compare.measures import MEASURES
from services.study import tables
from services.study.answers import answers, places
from services.study.config import Study
from services.study.figures import draw_curves, draw_sweeps, in_curves
from services.study.measures import TOLD
from services.study.records import DONE, Records, read_records
from services.study.remarks import name_of, remarks
from services.study.scope import scope
from services.study.statistics import RANGE_UP_TO
from services.study.tables import NOTHING, number, table
from services.telemetry.atomic import write_atomically

OVERVIEW = "studies.md"
"""Lists the studies of the project, and which page each is on."""
HEAD = """`gmpo study` writes this page from the run directories; nothing here is written by hand, and the sentences are made from the
figures like the tables."""

METHOD = f"""A figure is the median over the seeds; in brackets stands the range of the seeds, from the least to the greatest, or, of more
than {RANGE_UP_TO} seeds, the 95 % interval of the median: the percentile bootstrap, worked out exactly over all n^n ways to draw n of n
seeds with replacement, so that nothing is random about it. A difference is that of two runs under the same seed; "4/5" behind it says that
it is above 0 under 4 of 5 seeds.

A run that diverged stays in: its final accuracy counts as 0, and so does the reward of each step that it did not reach. A run that ended
because there was nothing left to learn keeps its last evaluation, and its last reward stands for the steps it did not reach. All other
figures are over the steps that a run made, and differences over the steps that both runs made. A run *collapsed* if it ended less than
half as accurate on held-out questions as it began, as every run did that diverged."""


def write_results(studies: Sequence[Study], page: Path) -> None:
    """Write the page, and its figures into the folder of its name beside it. ConfigError names a run that cannot be read."""
    records = [read_records(study) for study in studies]
    page.parent.mkdir(parents=True, exist_ok=True)
    parts = [*_head(records, page), *answers(records), "## How the figures are made", METHOD, _measures()]
    for one in records:
        parts += _section(one, page)
    write_atomically(page, "\n\n".join(part for part in parts if part) + "\n")


def _head(records: Sequence[Records], page: Path) -> Iterator[str]:
    yield f"# Results: {'; '.join(one.study.title for one in records)}"
    yield HEAD + (f" Other studies, and their pages: [{OVERVIEW}]({OVERVIEW})." if (page.parent / OVERVIEW).exists() else "")
    yield "## What this is evidence of"
    yield from scope(records, page)


def _measures() -> str:
    """What each column is."""
    return table(["measure", "what it is, of one run", "over"], [[one.head, one.what, one.over] for one in (*TOLD, MEASURES["collapsed"])])


def _section(records: Records, page: Path) -> Iterator[str]:
    study = records.study
    yield f"## {study.title}"
    yield _what_was_run(study)
    yield _levels(study)
    yield f"{len(records.ended)} of {records.planned} runs have ended."
    if not records.ended:
        return
    yield tables.ends(records)
    yield _ended_early(records)
    yield from places(records)
    yield "### Remarks"
    yield "\n".join(f"- {remark}" for remark in remarks(records))
    swept = len(study.factors) > 1
    directory = page.with_suffix("") / study.name
    drawn = draw_sweeps(records, directory) if swept else draw_curves(records, directory)
    if drawn:
        yield "### Figures"
        yield "" if swept else _left_out(records)
    for what, path in drawn:
        yield f"![{study.title}: {what}]({path.relative_to(page.parent).as_posix()})"
    for heading, text in tables.many_factors(records) if swept else tables.one_factor(records):
        yield f"### {heading[0].upper()}{heading[1:]}"
        yield text


def _left_out(records: Records) -> str:
    drawn = in_curves(records)
    others = ["-".join(levels) for levels, runs in records.runs.items() if runs and levels not in drawn]
    return f"Not in the figures, which hold {len(drawn)} lines that can be told apart: {', '.join(others)}." if others else ""


def _what_was_run(study: Study) -> str:
    recipe = study.recipe(study.cells[0], study.seeds[0])
    run, learner = recipe.run, recipe.learner
    settings = ", ".join(f"`{setting}`" for setting in study.config.settings) or "none"
    seeds = ", ".join(map(str, study.seeds))
    return (
        f"`{study.name}`: the recipe `{study.config.recipe.name}` with {settings} over it. {run.steps} steps of {run.prompts_per_step} "
        f"prompts x {recipe.generation.group_size} responses, {learner.updates_per_step} updates a step, where a level does not say "
        f"otherwise; {recipe.prompts.held_out} held-out questions, sampled answers to "
        f"each: {recipe.evaluation.samples}. Seeds {seeds}. Baseline: {study.baseline}."
    )


def _levels(study: Study) -> str:
    rows = [
        [factor, level, " ".join(f"`{setting}`" for setting in settings) or NOTHING]
        for factor, levels in study.config.factors.items()
        for level, settings in levels.items()
    ]
    return table(["factor", "level", "settings"], rows)


def _ended_early(records: Records) -> str:
    lines = []
    for run in records.ended:
        if run.outcome != DONE:
            steps, shares = run.curves.curve("eval/sampled")
            asked = f"; last evaluated at step {steps[-1]}: {number(shares[-1], 3)}" if len(steps) else ""
            made = run.curves.steps[-1] if len(run.curves.steps) else 0
            lines.append(f"- {name_of(run)} ended at step {made} of {run.steps_planned}: {run.why or run.outcome}{asked}")
    return "\n".join(lines)
