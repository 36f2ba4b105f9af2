"""The results page: what the runs of studies say, and what that says to the paper's claims.

Written from the run directories alone, so that it can be written at any time and always again: of the same runs, byte for byte the same
page and figures. Runs that have not ended are counted and left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from services.study import tables
from services.study.claims import CLAIMS, FAILS, FEWEST_PAIRS, HOLDS, MARGIN, OPEN, Verdict, verdicts
from services.study.config import Study
from services.study.figures import draw_curves, draw_sweeps
from services.study.measures import MEASURES
from services.study.records import DONE, Records, read_records
from services.study.remarks import name_of, remarks
from services.study.statistics import RANGE_UP_TO, one_sided_chance, range_coverage
from services.study.tables import NOTHING, number, spread_text, table
from services.telemetry.atomic import write_atomically

HEAD = """# Results

The paper's objectives (arXiv 2507.20673) against each other, and what that says to the paper's claims. `gmpo study` writes this page
from the run directories; nothing here is written by hand, and the sentences are made from the figures like the tables."""

RULE = f"""A claim is put to the differences between two objectives, paired by seed: same prompts, same start. By a rule that stood before
the runs, it **{HOLDS}** where the whole 95 % interval of their median lies on the claimed side, **{FAILS}** where it lies on the other
side, and else it **{OPEN}**; nor can it with fewer than {FEWEST_PAIRS} pairs. "At least" allows {MARGIN} of accuracy or reward. A
verdict is followed by the median difference with its interval, in the unit of the measure, and by how many seeds agree with the claim."""

METHOD = """A figure is the median over the seeds, with its 95 % interval in brackets. The interval is the percentile bootstrap of the
median, worked out exactly over all n^n ways to draw n of n seeds with replacement: nothing is random about it. A difference is that of two
runs under the same seed; "4/5" behind it says that it is above 0 under 4 of 5 seeds.

A run that diverged stays in: its final accuracy counts as 0, and so does the reward of each step that it did not reach. A run that ended
because there was nothing left to learn keeps its last evaluation, and its last reward stands for the steps it did not reach. All other
figures are over the steps that a run made. A run *collapsed* if it ended less than half as accurate on held-out questions as it began,
as every run did that diverged."""

NOT_RUN = f"**{OPEN}**: not run"


def write_results(studies: Sequence[Study], page: Path) -> None:
    """Write the page, and its figures into the folder of its name beside it. ConfigError names a run that cannot be read."""
    records = [read_records(study) for study in studies]
    parts = [HEAD, "## The paper's claims", RULE, _claims(records), "## How the figures are made", METHOD, _worth(records), _measures()]
    for one in records:
        parts += _section(one, page)
    page.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(page, "\n\n".join(part for part in parts if part) + "\n")


def _claims(records: Sequence[Records]) -> str:
    head = ["claim", "where it is from", *(one.study.title for one in records)]
    rows = []
    for claim in CLAIMS:
        found = [verdicts(claim, one) for one in records]
        if any(found):
            rows.append([claim.sentence, claim.source, *(_in_short(each) for each in found)])
    return "\n\n".join((table(head, rows), "\n".join(_count(one) for one in records)))


def _count(records: Records) -> str:
    """How often each verdict came in a study, over its places."""
    counts = Counter(verdict.word for claim in CLAIMS for verdict in verdicts(claim, records))
    told = ", ".join(f"{word} {counts[word]}" for word in (HOLDS, FAILS, OPEN))
    return f"- {records.study.title}, {len(records.ended)} of {records.planned} runs: {told}."


def _in_short(found: Sequence[Verdict]) -> str:
    """The verdict with its figures; how often each verdict came where a study has many places."""
    if len(found) <= 1:
        return _verdict(found[0]) if found else NOTHING
    if all(verdict.difference is None for verdict in found):
        return NOT_RUN
    counts = Counter(verdict.word for verdict in found)
    return ", ".join(f"**{word}** {counts[word]}" for word in (HOLDS, FAILS, OPEN) if counts[word]) + f" of {len(found)}"


def _verdict(verdict: Verdict) -> str:
    if verdict.difference is None:
        return NOT_RUN
    spread, measure = verdict.difference.spread, MEASURES[verdict.claim.measure]
    return f"**{verdict.word}**: {spread_text(spread, measure.digits, sign=True)}, {verdict.agreeing} of {spread.n}"


def _worth(records: Sequence[Records]) -> str:
    """What an interval of so few seeds can say."""
    lines = []
    for n in sorted({len(one.study.seeds) for one in records}):
        if n <= RANGE_UP_TO:
            lines.append(
                f"- Of {n} seeds the interval is the whole range, from the least to the greatest: it holds the true median in "
                f"{100 * range_coverage(n):.3g} % of all cases, and where two objectives are alike a claim that one has more holds by "
                f"chance in {100 * one_sided_chance(n):.3g} %."
            )
        else:
            lines.append(
                f"- Of {n} seeds the interval leaves out the outermost values; of so few it is 95 % in name and a little less in truth."
            )
    return "\n".join(lines)


def _measures() -> str:
    return table(["measure", "what it is, of one run"], [[measure.head, measure.meaning] for measure in MEASURES.values()])


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
    yield from _places(records)
    yield "### Remarks"
    yield "\n".join(f"- {remark}" for remark in remarks(records))
    swept = len(study.factors) > 1
    directory = page.with_suffix("") / study.name
    drawn = draw_sweeps(records, directory) if swept else draw_curves(records, directory)
    if drawn:
        yield "### Figures"
    for what, path in drawn:
        yield f"![{study.title}: {what}]({path.relative_to(page.parent).as_posix()})"
    for heading, text in tables.many_factors(records) if swept else tables.one_factor(records):
        yield f"### {heading[0].upper()}{heading[1:]}"
        yield text


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


def _places(records: Records) -> Iterator[str]:
    """Where a study has several places: the verdicts on what is claimed of a whole sweep, and the places where another claim fails."""
    rows = [
        [claim.sentence, verdict.where, _verdict(verdict)]
        for claim in CLAIMS
        for verdict in verdicts(claim, records)
        if verdict.where and (claim.scope != "everywhere" or verdict.word == FAILS)
    ]
    if rows:
        yield "### Claims on the sweep, and where the others do not hold"
        yield table(["claim", "where", "verdict"], rows)
