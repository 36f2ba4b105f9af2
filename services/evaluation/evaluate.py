"""One evaluation: every problem of a suite put to one pinned version, graded, recorded, and summed up.

suite ── exam (rendered, tokenized) ──► ask (HTTP) ──► grade (children) ──► step-N.jsonl ──► summary ──► step-N.json
                                         ▲ what step-N.jsonl already has is not asked again
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import numpy as np

from actors.errors import UsageError
from actors.generation.spec import Sampling
from actors.reward.pool import Verifier
from actors.types import GRADED, GroupMeta, Outcome, Prompt, Rollout, RolloutGroup, Span
from actors.weights.manifest import read_manifest
from actors.weights.version import version_path
from services.config import load_recipe
from services.evaluation.answers import Answered, AnswerLog, Header, Sample
from services.evaluation.ask import Asker, Pinned
from services.evaluation.config import SuiteConfig
from services.evaluation.estimate import over_problems, over_sets, pass_at
from services.evaluation.exam import Exam, open_exam
from services.evaluation.results import EVALUATIONS, Result, Summary, write_result
from services.evaluation.suites import check
from services.training.rundir import recipe_of

Notify = Callable[[str], None]
"""Takes a line for a person."""
TELLS = 10
"""Lines about progress, about."""


class Policy(Protocol):
    """Who answers: Asker, or a test's."""

    async def ask(self, version: Pinned, prompt: Sequence[int], sampling: Sampling, seed: str) -> tuple[Rollout, ...]:
        """Answers to one prompt."""


class Grader(Protocol):
    """Who grades: Verifier, or a test's."""

    async def verify(self, group: RolloutGroup) -> tuple[GroupMeta, RolloutGroup]:
        """The group with its verdicts."""


@dataclass(frozen=True, slots=True)
class Place:
    """What is evaluated: a run's versions, by files under `data`, `concurrency` problems at once."""

    run_dir: Path
    data: Path
    concurrency: int


async def evaluate(place: Place, suite: SuiteConfig, policy: str, asker: Asker, notify: Notify) -> Result:
    """Evaluate the version that a model's name means now; an interrupted evaluation goes on. Writes the result and returns it.

    UsageError and its kind for what the person can mend; see Asker for an endpoint that is away.
    """
    recipe = load_recipe(recipe_of(place.run_dir))
    await asyncio.to_thread(check, suite, recipe, place.data)
    version = await asker.pin(policy)
    directory = version_path(place.run_dir / "policies", version.step)
    weights = _weights(directory, version)
    exam = await asyncio.to_thread(open_exam, suite, recipe, directory, place.data)
    header = Header(suite.name, exam.digest, version.step, weights)
    with AnswerLog(place.run_dir / EVALUATIONS / suite.name / f"step-{version.step}.jsonl", header) as log:
        _tell(exam, version, log, notify)
        if missing(exam, log):
            verifier = Verifier(exam.reward, exam.tasks)
            try:
                await verifier.ready()
                await answer(exam, version, asker, verifier, log, concurrency=place.concurrency, notify=notify)
            finally:
                await verifier.close()
        result = summed_up(exam, header, log)
    write_result(place.run_dir, result)
    return result


async def answer(exam: Exam, version: Pinned, policy: Policy, grader: Grader, log: AnswerLog, *, concurrency: int, notify: Notify) -> None:
    """Ask and grade what the log lacks, some problems at once; the first error ends all of it, and what came before stays recorded."""
    waiting = missing(exam, log)
    left = iter(waiting)
    every = max(1, -(-len(waiting) // TELLS))

    async def work() -> None:
        for name, prompt in left:
            log.append(await _answered(exam, version, policy, grader, name, prompt))
            if len(log.answered) % every == 0:
                notify(f"{len(log.answered):,} of {exam.problems:,} problems")

    tasks = [asyncio.create_task(work()) for _ in range(min(concurrency, len(waiting)))]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def missing(exam: Exam, log: AnswerLog) -> list[tuple[str, Prompt]]:
    """(set, prompt) of each problem that has no answer yet, in order."""
    every = ((name, prompt) for name, chosen in exam.sets.items() for prompt in chosen.prompts)
    return [(name, prompt) for name, prompt in every if (name, prompt.row) not in log.answered]


def summed_up(exam: Exam, header: Header, log: AnswerLog) -> Result:
    """The result, from the answers to every problem."""
    of_set = {name: [log.answered[name, prompt.row] for prompt in chosen.prompts] for name, chosen in exam.sets.items()}
    ks = exam.suite.ks
    sets = {name: summary(answers, ks, exam.sets[name].left_out.count) for name, answers in of_set.items()}
    whole = summary([one for answers in of_set.values() for one in answers], ks, sum(one.left_out for one in sets.values()))
    means = {k: over_sets([one.pass_at[k] for one in sets.values()]) for k in ks}
    return Result(
        suite=header.suite,
        digest=header.digest,
        step=header.step,
        weights=header.weights,
        created=datetime.now(UTC),
        overall=replace(whole, pass_at=means),
        sets=sets,
    )


def summary(answers: Sequence[Answered], ks: Iterable[int], left_out: int) -> Summary:
    """What was found of these problems, each asked equally often."""
    samples = [sample for one in answers for sample in one.samples]
    count = len(answers[0].samples)
    right = [sum(sample.outcome is Outcome.RIGHT for sample in one.samples) for one in answers]
    return Summary(
        problems=len(answers),
        samples=count,
        pass_at={k: over_problems([pass_at(k, count, found) for found in right], count) for k in ks},
        score=sum(sample.score for sample in samples) / len(samples),
        truncated=sum(sample.finish_reason == "length" for sample in samples) / len(samples),
        ungraded=sum(sample.outcome not in GRADED for sample in samples),
        left_out=left_out,
        length=sum(sample.tokens for sample in samples) / len(samples),
        seconds=sum(one.seconds for one in answers),
    )


async def _answered(exam: Exam, version: Pinned, policy: Policy, grader: Grader, name: str, prompt: Prompt) -> Answered:
    began = time.monotonic()
    room = min(exam.sampling.max_tokens, exam.context - len(prompt.token_ids))
    if room > 0:
        sampling = replace(exam.sampling, max_tokens=room)
        rollouts = await policy.ask(version, prompt.token_ids.tolist(), sampling, f"{exam.suite.seed}/{name}/{prompt.row}")
    else:
        rollouts = (_nothing(version.step),) * exam.sampling.samples
    _, group = await grader.verify(RolloutGroup(prompt, rollouts))
    return Answered(name, prompt.row, tuple(_samples(group)), time.monotonic() - began)


def _samples(group: RolloutGroup) -> Iterator[Sample]:
    for rollout, verdict in zip(group.rollouts, group.verdicts or (), strict=True):
        yield Sample(rollout.text, verdict.outcome, verdict.score, rollout.finish_reason, len(rollout.token_ids))


def _nothing(step: int) -> Rollout:
    """The answer to a question that fills the model's context: cut off before its first token."""
    return Rollout(np.zeros(0, np.int32), np.zeros(0, np.float32), np.zeros(0, np.bool_), (Span(step, 0, 0),), "length", "")


def _weights(directory: Path, version: Pinned) -> str:
    """The digest of the weights in a version's directory, which must be those that the endpoint answers with.

    PolicyVersionError if the directory is not there: the version's tokenizer is needed.
    """
    manifest = read_manifest(directory)
    if manifest.weights_short != version.weights:
        raise UsageError(f"the endpoint's {version.name} has other weights ({version.weights}) than {directory} ({manifest.weights_short})")
    return manifest.weights_sha256


def _tell(exam: Exam, version: Pinned, log: AnswerLog, notify: Notify) -> None:
    held = exam.problems - len(missing(exam, log))
    before = f", {held:,} of them answered before" if held else ""
    notify(f"{version.name} ({version.weights}), suite {exam.suite.name}: {exam.problems:,} problems{before}")
    for name, chosen in exam.sets.items():
        if chosen.left_out.count:
            notify(f"{name}: {chosen.left_out.describe()}")
