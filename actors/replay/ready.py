"""The groups that wait for a step, and which of them the next one takes."""

from __future__ import annotations

from collections.abc import Mapping

from actors.replay.messages import QueueSpec
from actors.replay.selection import choose, complete
from actors.replay.standing import Claim
from actors.types import Held


class Ready(dict[int, Held]):
    """By ordinal. Groups of `recorded` steps, which an earlier driver trained beyond the checkpoint, are promised to those steps."""

    def __init__(self, spec: QueueSpec) -> None:
        super().__init__()
        self._spec = spec
        self.recorded: Mapping[int, Claim] = {}

    @property
    def free(self) -> int:
        """Groups that no step is promised."""
        return len(self) - len(self._promised)

    @property
    def has_room(self) -> bool:
        """Whether another group may come; promised ones take no room from it."""
        return self.free < self._spec.capacity

    @property
    def _promised(self) -> set[int]:
        return {ordinal for claim in self.recorded.values() for ordinal in claim.ordinals}

    def fills(self, step: int) -> bool:
        """Whether there are groups enough for a step, be it wise to take them or not."""
        return step in self.recorded or self.free >= self._spec.prompts_per_step

    def complete(self, step: int, running: int) -> bool:
        """Whether all is here that must be before `step` takes groups of exactly the age that the spec asks for."""
        spec = self._spec
        return complete(step, len(self), running, size=spec.prompts_per_step, max_staleness=spec.max_staleness, steps=spec.steps)

    def lasting(self, version: int) -> tuple[Held, ...]:
        """What a checkpoint under the present `version` keeps: all, but with exact staleness nothing that this version sampled.

        A part of that would be in other company when it is completed, so who goes on from there has the version sample all of it.
        """
        return tuple(held for held in self.values() if not self._spec.exact_staleness or held[0].versions[1] < version)

    def claim(self, step: int, waiting: Mapping[int, int], filtered: int) -> Claim | None:
        """What step `step` takes: what it was trained on before, else what `choose` says; None while it is better to wait.

        waiting: ordinal -> version at admission of the prompts under way; filtered: groups dropped since the last claim.
        """
        spec, promised = self._spec, self._promised
        if spec.exact_staleness and not self.complete(step, len(waiting)):
            return None
        if step in self.recorded:
            return self.recorded[step]
        versions = {ordinal: meta.versions[0] for ordinal, (meta, _) in self.items() if ordinal not in promised}
        chosen = choose(step, versions, waiting, size=spec.prompts_per_step, max_staleness=spec.max_staleness)
        return None if chosen is None else Claim(tuple(chosen), filtered)

    def forget(self, step: int | None) -> None:
        """Nothing is promised to this step or a later one any more. None: all stays."""
        if step is not None:
            self.recorded = {earlier: kept for earlier, kept in self.recorded.items() if earlier < step}

    def take(self, step: int, claim: Claim) -> dict[int, Held]:
        """The groups of a claimed step, which wait no longer."""
        self.recorded = {later: kept for later, kept in self.recorded.items() if later != step}
        return {ordinal: self.pop(ordinal) for ordinal in claim.ordinals}
