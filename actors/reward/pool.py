"""The reward pool: groups in, groups with verdicts out.

A `Verifier` keeps a few warm children and spreads the responses of all groups over them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from actors.errors import GmpoError, VerifierError
from actors.reward.breaker import Breaker
from actors.reward.config import RewardConfig
from actors.reward.functions import Sample
from actors.reward.overlong import LABEL, shaped
from actors.reward.sandbox import Sandbox
from actors.types import GroupMeta, Outcome, RolloutGroup, Verdict

_BATCHES_PER_CHILD = 2


class Verifier:
    """Verifies groups in child processes; many `verify` calls may run at once. `tasks` are those the children warm up for.

    Building it starts the children and waits for nothing. `close` ends them; so does the death of this process.
    """

    def __init__(self, config: RewardConfig, tasks: Sequence[str] = ("math",)) -> None:
        self._overlong = config.overlong
        self._max_chars = config.max_response_chars
        self._breaker = Breaker(config.max_fault_share)
        self._sandboxes = [Sandbox(config, tasks) for _ in range(config.workers)]
        self._idle: asyncio.Queue[Sandbox] = asyncio.Queue()
        self._revivals: set[asyncio.Task[None]] = set()
        self._closed = False
        for sandbox in self._sandboxes:
            sandbox.spawn()
            self._idle.put_nowait(sandbox)

    @property
    def idle(self) -> int:
        """Children that wait for work."""
        return self._idle.qsize()

    async def ready(self) -> None:
        """Wait until the children are warm. Raises ConfigError if a part of the reward cannot be loaded, or code not be run safely."""
        await asyncio.gather(*(sandbox.ready() for sandbox in self._sandboxes))

    async def verify(self, group: RolloutGroup) -> tuple[GroupMeta, RolloutGroup]:
        """Grade every response of a group; a response cut off by the token limit is graded like any other.

        Equal responses are graded once, and of a long one only the end is looked at. A fault of one response is its outcome; VerifierError
        or ConfigError say that no child comes up, VerifiersBroken that most of the last verifications crashed: the run should end.
        """
        began = time.monotonic()
        prompt = group.prompt
        ends = [rollout.text[-self._max_chars :] for rollout in group.rollouts]
        texts = list(dict.fromkeys(ends))
        samples = [Sample(prompt.task, text, prompt.answer, prompt.text, prompt.columns) for text in texts]
        graded = dict(zip(texts, await self._grade(samples), strict=True))
        verdicts = tuple(graded[end] for end in ends)
        if self._overlong:  # by tokens, of which equal texts need not have equally many
            lengths = [len(rollout.token_ids) for rollout in group.rollouts]
            verdicts = tuple(shaped(verdict, length, self._overlong) for verdict, length in zip(verdicts, lengths, strict=True))
        meta = _meta(group, verdicts, time.monotonic() - began)
        if self._overlong:
            meta = replace(meta, shaping=tuple(self._overlong.penalty * verdict.parts.get(LABEL, 0.0) for verdict in verdicts))
        return meta, replace(group, verdicts=verdicts)

    async def close(self) -> None:
        """End all children. Calls still running fail with VerifierError."""
        self._closed = True
        for revival in self._revivals:
            revival.cancel()
        await asyncio.gather(*self._revivals, return_exceptions=True)
        await asyncio.gather(*(sandbox.close() for sandbox in self._sandboxes))

    async def _grade(self, samples: Sequence[Sample]) -> list[Verdict]:
        size = max(1, -(-len(samples) // (_BATCHES_PER_CHILD * len(self._sandboxes))))
        batches = [samples[start : start + size] for start in range(0, len(samples), size)]
        tasks = [asyncio.create_task(self._grade_batch(batch)) for batch in batches]
        try:
            return [verdict for verdicts in await asyncio.gather(*tasks) for verdict in verdicts]
        finally:
            for task in tasks:
                task.cancel()

    async def _grade_batch(self, samples: Sequence[Sample]) -> list[Verdict]:
        """Grade a batch on any idle child; what a dying child leaves over goes to the next one."""
        verdicts: list[Verdict] = []
        while len(verdicts) < len(samples):
            sandbox = await self._idle.get()
            left = samples[len(verdicts) :]
            try:
                graded = await sandbox.grade(left)
            except VerifierError as error:
                if not self._closed:
                    self._breaker.record([Outcome.CRASH] * len(left), str(error))
                raise
            finally:
                self._release(sandbox)
            if self._closed:
                raise VerifierError("the verifier was closed")  # the last verdict is of a child that `close` killed
            self._breaker.record((verdict.outcome for verdict in graded), sandbox.detail)
            verdicts += graded
        return verdicts

    def _release(self, sandbox: Sandbox) -> None:
        """Give a child back; a dead one is first replaced, in the background, while the others go on."""
        if sandbox.pid or self._closed:
            self._idle.put_nowait(sandbox)
            return
        revival = asyncio.create_task(self._revive(sandbox))
        self._revivals.add(revival)
        revival.add_done_callback(self._revivals.discard)

    async def _revive(self, sandbox: Sandbox) -> None:
        try:
            with suppress(GmpoError):  # whoever uses it next meets the error
                await sandbox.ready()
        finally:
            self._idle.put_nowait(sandbox)


def _meta(group: RolloutGroup, verdicts: Sequence[Verdict], seconds: float) -> GroupMeta:
    graded = [verdict.parts for verdict in verdicts if verdict.graded]
    labels = {label for parts in graded for label in parts}
    means = {label: [parts[label] for parts in graded if label in parts] for label in sorted(labels)}
    return GroupMeta(
        ordinal=group.prompt.ordinal,
        versions=group.versions,
        lengths=tuple(len(rollout.token_ids) for rollout in group.rollouts),
        scores=tuple(verdict.score for verdict in verdicts),
        outcomes=tuple(verdict.outcome for verdict in verdicts),
        parts={label: sum(scores) / len(scores) for label, scores in means.items()},
        truncated=sum(rollout.finish_reason == "length" for rollout in group.rollouts),
        prompt_length=len(group.prompt.token_ids),
        seconds=seconds,
    )
