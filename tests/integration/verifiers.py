"""Real verifiers for tests: started, asked, and closed without a process left."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import psutil

from actors.reward.config import RewardConfig
from actors.reward.pool import Verifier
from actors.types import Answer, Outcome, Prompt, Rollout, RolloutGroup, Span

# LaTeX that a parser works on for ever, and LaTeX that it nests too deep for
HANGING = (
    r"\boxed{9^{9^{9^{9}}}}",
    r"\boxed{10^{(5^{5^{5^{5^5}}} + 5^{5^{5^{5^5}}})}}",
    r"\boxed{100000000!}",
)
NESTED = (
    r"\boxed{" + "{" * 3000 + "1" + "}" * 3000 + "}",
    r"\boxed{" + r"\frac{1}{" * 400 + "2" + "}" * 400 + "}",
)

Started = Callable[..., Awaitable[Verifier]]


def rollout(text: str, finish: str = "stop") -> Rollout:
    """A response of one token a word."""
    length = len(text.split())
    ones = np.ones(length, dtype=np.bool_)
    return Rollout(np.zeros(length, np.int32), np.zeros(length, np.float32), ones, (Span(3, 0, 1), Span(4, 1, length)), finish, text)


def group(task: str, answer: Answer, texts: Sequence[str], **columns: Any) -> RolloutGroup:
    """Responses to one prompt."""
    prompt = Prompt(7, task, np.arange(3, dtype=np.int32), answer, "Q", "test#1", columns)
    return RolloutGroup(prompt, tuple(rollout(text) for text in texts))


async def outcomes(verifier: Verifier, texts: Sequence[str], answer: Answer = "5", task: str = "math") -> list[Outcome]:
    """What each of the texts is found to be."""
    meta, _ = await verifier.verify(group(task, answer, texts))
    return list(meta.outcomes)


def children(parent: int | None = None) -> list[psutil.Process]:
    """The verifying processes below this one, or below `parent`."""
    found = psutil.Process(parent).children(recursive=True)
    return [child for child in found if "actors.reward.child" in " ".join(child.cmdline())]


@asynccontextmanager
async def verifiers() -> AsyncIterator[Started]:
    """Start verifiers; close them at the end, and see none of their processes left."""
    made: list[Verifier] = []

    async def started(tasks: Sequence[str] = (), config: RewardConfig | None = None) -> Verifier:
        made.append(Verifier(config or RewardConfig(), tasks))
        await made[-1].ready()
        return made[-1]

    yield started
    for verifier in made:
        await verifier.close()
    assert children() == []
