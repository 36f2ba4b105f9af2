"""From problems to tokenized prompts, and which of them are kept for evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from actors.errors import DataError
from actors.prompts import digits
from actors.prompts.config import DigitsSource, PromptsConfig, Source
from actors.prompts.problems import Problem, Reason, Rejected, Rejection, question_digest
from actors.prompts.sources import describe, load
from actors.prompts.templates import Renderer
from actors.types import Prompt


class Prepared(NamedTuple):
    """A usable problem: its prompt, whose ordinal is still 0, and what tells its question from others whatever the template."""

    prompt: Prompt
    digest: bytes


def prepare(problems: Sequence[Problem], renderer: Renderer, max_tokens: int) -> tuple[list[Prepared], list[Rejection]]:
    """Renders all problems and tokenizes them in one call (thousands in a second); leaves out those that do not fit."""
    texts: list[tuple[Problem, str]] = []
    rejections: list[Rejection] = []
    for problem in problems:
        try:
            texts.append((problem, renderer.render(problem.question)))
        except DataError:
            rejections.append(Rejection(Reason.UNRENDERABLE, problem.row))
    prepared = []
    for (problem, text), token_ids in zip(texts, renderer.encode([text for _, text in texts]), strict=True):
        if len(token_ids) > max_tokens:
            rejections.append(Rejection(Reason.TOO_LONG, problem.row))
            continue
        prompt = Prompt(
            ordinal=0,
            task=problem.task,
            token_ids=token_ids,
            answer=problem.answer,
            text=text,
            row=problem.row,
            columns=problem.columns,
        )
        prepared.append(Prepared(prompt, question_digest(problem.question)))
    return prepared, rejections


def prepare_source(config: PromptsConfig, source: Source, renderer: Renderer) -> tuple[list[Prepared], list[Rejection]]:
    """All usable prompts of a source, or of digit problems the held-out ones; DataError if there are none."""
    malformed: list[Rejection] = []
    if isinstance(source, DigitsSource):
        problems = digits.held_out(source.task, source.digits, config.held_out)
    else:
        problems, malformed = load(source, columns=config.columns, task=config.task)
    prepared, unfit = prepare(problems, renderer, config.max_tokens)
    rejections = [*malformed, *unfit]
    if not prepared:
        raise DataError(f"no usable problem in {describe(source)}: {Rejected.of(rejections).describe()}")
    return prepared, rejections


def hold_out(prepared: Sequence[Prepared], count: int, rejections: Sequence[Rejection] = ()) -> list[Prepared]:
    """`count` problems chosen by the hash of their questions: neither the seed nor the order of the rows has a say.

    Raises DataError if there are not that many beside one to train on, and tells of the rejections then.
    """
    distinct: dict[bytes, Prepared] = {}
    for one in prepared:
        distinct.setdefault(one.digest, one)
    if count >= len(distinct):
        usable = f"only {len(distinct)} different usable problems; {Rejected.of(rejections).describe()}"
        raise DataError(f"prompts.held_out is {count}, but the source has {usable}")
    return [distinct[digest] for digest in sorted(distinct)[:count]]


def first(prepared: Sequence[Prepared], count: int) -> list[Prepared]:
    """The first `count` of a source that is there for evaluation only."""
    if count > len(prepared):
        raise DataError(f"prompts.held_out is {count}, but held_out_source has only {len(prepared)} usable problems")
    return list(prepared[:count])


def without(prepared: Sequence[Prepared], held_out: Sequence[Prepared]) -> tuple[list[Prepared], list[Rejection]]:
    """What may be trained on: no row that asks a held-out question, be it a copy of it."""
    kept_apart = {one.digest for one in held_out}
    # By identity, since files of two sources may share a name.
    chosen = {id(one) for one in held_out}
    kept, repeated = [], []
    for one in prepared:
        if one.digest not in kept_apart:
            kept.append(one)
        elif id(one) not in chosen:
            repeated.append(Rejection(Reason.HELD_OUT, one.prompt.row))
    return kept, repeated
