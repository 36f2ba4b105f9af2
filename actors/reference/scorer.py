"""The reference scorer: log-probs of a group's responses under the frozen starting policy."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch

from actors.modeling.loading import load_model
from actors.modeling.packing import pack
from actors.modeling.scoring import Scorer
from actors.reference.config import ReferenceConfig
from actors.reference.kl import Estimator, summed_kl
from actors.types import FloatArray, IntArray, RolloutGroup


@dataclass(frozen=True, slots=True)
class Scored:
    """What the driver sees of a scored group, and no payload."""

    seconds: float  # time it took
    kl: tuple[float, ...] = ()  # [G] KL(behaviour || reference) summed over each response; empty unless the scorer was told an estimator


class ReferenceScorer:
    """Holds the model; scores one group at a time in a thread, so that ready groups never wait behind unready arguments."""

    def __init__(self, model: str, dtype: str, temperature: float, config: ReferenceConfig, kl: Estimator | None = None) -> None:
        torch.set_num_threads(config.threads)
        self._device = torch.device("cuda" if torch.cuda.is_available() and config.gpus else "cpu")
        self._scorer = Scorer(load_model(model, dtype=dtype)).to(self._device).eval()
        self._temperature = temperature
        self._budget = config.batch_tokens
        self._kl = kl
        self._thread = ThreadPoolExecutor(1)

    async def ready(self) -> None:
        """Returns once the model is loaded."""

    async def score(self, group: RolloutGroup) -> tuple[Scored, RolloutGroup]:
        """(what it cost, the group with its reference log-probs at the temperature it was sampled with)."""
        began = time.monotonic()
        logprobs = await asyncio.get_running_loop().run_in_executor(self._thread, self._score, group)
        scored = Scored(time.monotonic() - began, self._costs(group, logprobs))
        return scored, replace(group, ref_logprobs=logprobs)

    def _costs(self, group: RolloutGroup, logprobs: tuple[FloatArray, ...]) -> tuple[float, ...]:
        if self._kl is None:
            return ()
        return tuple(summed_kl(rollout, reference, self._kl) for rollout, reference in zip(group.rollouts, logprobs, strict=True))

    @torch.no_grad()
    def _score(self, group: RolloutGroup) -> tuple[FloatArray, ...]:
        prompt = group.prompt.token_ids
        sequences = [np.concatenate([prompt, rollout.token_ids]) for rollout in group.rollouts]
        scored: list[FloatArray] = []
        for part in _passes(sequences, self._budget):
            batch = pack(part, [len(prompt)] * len(part), self._device)
            rows = self._scorer(batch, self._temperature).logprobs.float().cpu().numpy()
            scored += [row[: len(sequence) - len(prompt)].copy() for row, sequence in zip(rows, part, strict=True)]
        return tuple(scored)


def _passes(sequences: Sequence[IntArray], budget: int) -> Iterator[list[IntArray]]:
    """The sequences in their order, cut into forward passes of at most `budget` tokens; a longer one is a pass alone."""
    part: list[IntArray] = []
    for sequence in sequences:
        if part and sum(map(len, part)) + len(sequence) > budget:
            yield part
            part = []
        part.append(sequence)
    yield part
