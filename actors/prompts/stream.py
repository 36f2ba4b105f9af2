"""The n-th prompt of a run, as a pure function of the seed and n: to resume, a run needs to remember only a number.

    source ── columns ──► problems ── template, tokenizer ──► prompts ──► nth(0), nth(1), nth(2), ...
                 │                          │                    └──────► held_out()
                 └── malformed ──► rejected ◄── too long, held out

Rows are rendered and tokenized when the stream is opened (some seconds for ten thousand), so that rows which are too long are known,
and the ordinals dense, before training starts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from actors.errors import DataError
from actors.prompts import digits
from actors.prompts.config import DigitsSource, PromptsConfig, Source
from actors.prompts.prepare import Prepared, first, hold_out, prepare, prepare_source, without
from actors.prompts.problems import Rejected, Rejection
from actors.prompts.templates import Renderer, Tokenizer
from actors.types import Prompt


class Order(Protocol):
    """Which prompt stands at which ordinal."""

    @property
    def epoch_size(self) -> int | None:
        """Prompts until they repeat; None if they do not."""

    def nth(self, ordinal: int) -> Prompt:
        """The prompt at an ordinal, counted from 0; pure."""


class PromptStream:
    """All prompts of a run. Built by `open_stream`; holds no cursor, so any ordinal may be asked for at any time."""

    def __init__(self, order: Order, *, held_out: Sequence[Prepared] = (), rejections: Sequence[Rejection] = ()) -> None:
        self._order = order
        self._held_out = tuple(replace(one.prompt, ordinal=number) for number, one in enumerate(held_out))
        self.rejected = Rejected.of(rejections)

    @property
    def epoch_size(self) -> int | None:
        """Prompts in an epoch; None for problems that are generated without end."""
        return self._order.epoch_size

    def nth(self, ordinal: int) -> Prompt:
        """The prompt of this ordinal."""
        return self._order.nth(ordinal)

    def held_out(self) -> list[Prompt]:
        """Prompts for evaluation. Their ordinals count from 0 and mean nothing to the ledger."""
        return list(self._held_out)


class RowOrder:
    """Each row once an epoch, in an order drawn from (seed, epoch), or as they are."""

    def __init__(self, prompts: Sequence[Prompt], *, seed: int, shuffle: bool = True) -> None:
        self._prompts, self._seed, self._shuffle = prompts, seed, shuffle

    @property
    def epoch_size(self) -> int:
        return len(self._prompts)

    def nth(self, ordinal: int) -> Prompt:
        epoch, place = divmod(ordinal, len(self._prompts))
        if epoch < 0:
            raise IndexError(f"ordinals count from 0, not {ordinal}")
        row = int(_permutation(self._seed, epoch, len(self._prompts))[place]) if self._shuffle else place
        return replace(self._prompts[row], ordinal=ordinal)


# Prompts in flight span two epochs at most, and a resumed run may look back; more would only hold memory.
@lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, size: int) -> NDArray[np.int64]:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, epoch]))).permutation(size)


class DigitOrder:
    """Generated problems: a new one at each ordinal. Raises DataError at once if they do not fit into `max_tokens`."""

    epoch_size = None

    def __init__(self, source: DigitsSource, renderer: Renderer, *, max_tokens: int, seed: int) -> None:
        self._source, self._renderer, self._max_tokens, self._seed = source, renderer, max_tokens, seed
        for ordinal in range(16):
            self.nth(ordinal)

    def nth(self, ordinal: int) -> Prompt:
        problem = digits.problem(self._source.task, self._source.digits, seed=self._seed, number=ordinal)
        prepared, _ = prepare([problem], self._renderer, self._max_tokens)
        if not prepared:
            raise DataError(f"prompts.max_tokens is {self._max_tokens}, but {problem.row} is longer: {problem.question}")
        return replace(prepared[0].prompt, ordinal=ordinal)


def open_stream(config: PromptsConfig, tokenizer: Tokenizer, *, seed: int) -> PromptStream:
    """Loads, renders and tokenizes what the config names. `rejected` of the stream then tells which rows were left out, and why.

    Raises DataError where nothing is left to train on, or less than asked for to hold out.
    """
    renderer = Renderer(tokenizer, config.template, config.system)
    if isinstance(config.source, DigitsSource):
        generated = DigitOrder(config.source, renderer, max_tokens=config.max_tokens, seed=seed)
        evaluation, rejections = _evaluation(config, config.held_out_source or config.source, renderer)
        return PromptStream(generated, held_out=evaluation, rejections=rejections)

    prepared, rejections = prepare_source(config, config.source, renderer)
    if config.held_out_source is None:
        evaluation = hold_out(prepared, config.held_out, rejections)
    else:
        evaluation, unfit = _evaluation(config, config.held_out_source, renderer)
        rejections += unfit
    training, repeated = without(prepared, evaluation)
    if not training:
        raise DataError("every problem of prompts.source is also in prompts.held_out_source: none is left to train on")
    order = RowOrder([one.prompt for one in training], seed=seed, shuffle=config.shuffle)
    return PromptStream(order, held_out=evaluation, rejections=[*rejections, *repeated])


def _evaluation(config: PromptsConfig, source: Source, renderer: Renderer) -> tuple[list[Prepared], list[Rejection]]:
    """The held-out problems of a source from which nothing is trained on."""
    if not config.held_out:
        return [], []
    prepared, rejections = prepare_source(config, source, renderer)
    return first(prepared, config.held_out), rejections
