"""The claims' part of the results page: the rule, what each study says to each claim, and what was not asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from services.compare.measures import MEASURES
from services.study.claims import CLAIMS, FAILS, FEWEST_PAIRS, HOLDS, MARGIN, OPEN, Claim, Verdict, asks, verdicts
from services.study.records import Records
from services.study.statistics import RANGE_UP_TO, Paired, one_sided_chance, range_coverage
from services.study.tables import NOTHING, spread_text, table

RULE = f"""A claim is put to the differences between two objectives, paired by seed: same prompts, same start. By a rule that stood before
the runs, it **holds** where it holds in all seeds, **holds in none** where the opposite does, and else it **{OPEN}**; nor can it with
fewer than {FEWEST_PAIRS} seeds. With more than {RANGE_UP_TO} seeds the 95 % interval of the median difference decides. KL is asked
twice, by its median over steps and by its mean: where they do not agree, it **{OPEN}**. "At least" allows {MARGIN} of accuracy or reward,
about the standard error of one accuracy from its questions (each study's remarks work it out); a mean reward is of many more responses
and better known. Behind a verdict stand the median difference with its range, in the unit of the measure, and the seeds that agree with
the claim.

A claim that holds here holds of these runs. The paper's table or figure beside it, of models of 1.5 to 32 billion parameters, is not
replicated."""
NOT_RUN = f"**{OPEN}**: not run"


def answers(records: Sequence[Records]) -> Iterator[str]:
    """The parts of the section; none where no study asks any of the claims."""
    asked = [claim for claim in CLAIMS if any(asks(one.study, claim) for one in records)]
    if not asked:
        return
    yield "## The paper's claims"
    yield RULE
    head = ["claim", "where it is from", *(one.study.title for one in records)]
    yield table(head, [[claim.sentence, claim.source, *(_in_short(verdicts(claim, one)) for one in records)] for claim in asked])
    yield "\n".join(_count(one) for one in records)
    yield _worth(records)
    if others := [claim for claim in CLAIMS if claim not in asked]:
        yield "Not asked here, for want of a study that could say:"
        yield "\n".join(f"- {claim.sentence} ({claim.source})" for claim in others)


def places(records: Records) -> Iterator[str]:
    """Where a study has several places: the verdicts on what is claimed of a whole sweep, and the places where another claim fails."""
    rows = [
        [claim.sentence, verdict.where, _verdict(verdict)]
        for claim in CLAIMS
        for verdict in verdicts(claim, records)
        if verdict.where and (claim.factor or verdict.word == FAILS)
    ]
    if rows:
        yield "### Claims on the sweep, and where the others do not hold"
        yield table(["claim", "where", "verdict"], rows)


def _in_short(found: Sequence[Verdict]) -> str:
    """The verdict with its figures; how often each verdict came where a study has many places."""
    if len(found) <= 1:
        return _verdict(found[0]) if found else NOTHING
    there = [verdict for verdict in found if verdict.difference is not None]
    if not there:
        return NOT_RUN
    told = Counter(verdict.told for verdict in sorted(there, key=lambda one: (HOLDS, FAILS, OPEN).index(one.word)))
    absent = f", not run at {len(found) - len(there)}" if len(there) < len(found) else ""
    return ", ".join(f"**{word}** at {count}" for word, count in told.items()) + f"{absent} of {len(found)} places"


def _verdict(verdict: Verdict) -> str:
    if verdict.difference is None:
        return NOT_RUN
    claim = verdict.claim
    told = f"**{verdict.told}**: {_figures(claim, claim.measure, verdict.difference)}"
    return f"{told}; by the mean {_figures(claim, claim.second, verdict.second)}" if verdict.second else told


def _figures(claim: Claim, measure: str, difference: Paired) -> str:
    spread = difference.spread
    return (
        f"{spread_text(spread, MEASURES[measure].digits, sign=True)}, {claim.agreeing(difference)} of {spread.n} seed{'s' * (spread.n > 1)}"
    )


def _count(records: Records) -> str:
    """How often each verdict came in a study, over its places."""
    counts = Counter(verdict.word for claim in CLAIMS for verdict in verdicts(claim, records))
    told = ", ".join(f"{word} {counts[word]}" for word in (HOLDS, FAILS, OPEN))
    return f"- {records.study.title}, {len(records.ended)} of {records.planned} runs: {told}."


def _worth(records: Sequence[Records]) -> str:
    """What agreement of so few seeds is worth."""
    return "\n".join(
        f"- Of {n} seeds the range holds the true median in {100 * range_coverage(n):.3g} % of all cases, and where two objectives are "
        f"alike a claim that one has more holds by chance in {100 * one_sided_chance(n):.3g} %."
        for n in sorted({len(one.study.seeds) for one in records})
        if FEWEST_PAIRS <= n <= RANGE_UP_TO
    )
