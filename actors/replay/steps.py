"""The frozen steps of a run that no checkpoint covers yet: what was claimed for each, and every rank's share of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from actors.replay.freeze import FrozenStep, freeze, share
from actors.replay.messages import QueueSpec
from actors.replay.standing import Claim
from actors.types import Held, Work


class Steps:
    """Holds metadata and references; the groups themselves stay where they are."""

    def __init__(self, spec: QueueSpec) -> None:
        self._spec = spec
        self._frozen: dict[int, FrozenStep] = {}
        self._refs: dict[int, dict[int, Any]] = {}  # step -> ordinal -> reference

    def __contains__(self, step: int) -> bool:
        return step in self._frozen

    def __getitem__(self, step: int) -> FrozenStep:
        return self._frozen[step]

    def frozen(self, step: int, claim: Claim, groups: Mapping[int, Held]) -> FrozenStep:
        """A claimed step, frozen: the same whenever it is done. Nothing is kept."""
        spec = self._spec
        return freeze(
            step,
            [groups[ordinal][0] for ordinal in claim.ordinals],
            advantages=spec.advantages,
            updates=spec.updates_per_step,
            seed=spec.seed,
            skip_zero_advantage=spec.skip_zero_advantage,
            filtered=claim.filtered if spec.dynamic_sampling else None,
        )

    def keep(self, step: int, claim: Claim, groups: Mapping[int, Held]) -> None:
        """Freeze a claimed step and hold on to its references."""
        self._frozen[step] = self.frozen(step, claim, groups)
        self._refs[step] = {ordinal: groups[ordinal][1][0] for ordinal in claim.ordinals}

    def work(self, step: int, rank: int, ranks: int) -> Work:
        """One rank's share: its rows, and the references of the groups they are in."""
        frozen, refs = self._frozen[step], self._refs[step]
        rows = share(frozen, rank, ranks)
        needed = sorted({row.group for row in rows})
        place = {group: index for index, group in enumerate(needed)}
        ordinals = tuple(frozen.metas[group].ordinal for group in needed)
        return Work(
            step=step,
            ordinals=ordinals,
            refs=tuple(refs[ordinal] for ordinal in ordinals),
            rows=tuple(row._replace(group=place[row.group]) for row in rows),
            totals=frozen.totals,
            metrics=frozen.metrics,
        )

    def break_up(self, step: int) -> dict[int, Held]:
        """Forget a step; the groups it held."""
        refs = self._refs.pop(step)
        return {meta.ordinal: (meta, [refs[meta.ordinal]]) for meta in self._frozen.pop(step).metas}

    def settle(self, committed: int) -> None:
        """A checkpoint covers all steps up to this one: their references may go."""
        for step in [step for step in self._frozen if step <= committed]:
            del self._frozen[step], self._refs[step]
