"""From a group's rewards to advantages. Masked responses (not graded) leave the statistics and get none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from actors.learner.config import AdvantageConfig
from actors.types import GRADED, GroupMeta


@dataclass(frozen=True, slots=True)
class GroupAdvantages:
    """A_i = (r_i - mean) / (std + epsilon) over the graded responses of one group (arXiv 2402.03300; without the
    division: arXiv 2503.20783).

    Fewer than two graded responses, or equal rewards, give 0 throughout.
    """

    config: AdvantageConfig

    def __call__(self, meta: GroupMeta) -> NDArray[np.float64]:
        """Advantages [G]; 0 where a response is masked."""
        return group_advantages(meta.scores, [outcome in GRADED for outcome in meta.outcomes], self.config)


def group_advantages(scores: Sequence[float], graded: Sequence[bool], config: AdvantageConfig) -> NDArray[np.float64]:
    """Advantages [G] of one group's scores [G]; 0 where `graded` [G] is False."""
    rewards, valid = np.asarray(scores, dtype=np.float64), np.asarray(graded, dtype=np.bool_)
    advantages = np.zeros_like(rewards)
    kept = rewards[valid]
    if kept.size < 2 or np.ptp(kept) == 0:
        return advantages
    centred = kept - kept.mean()
    advantages[valid] = centred / (kept.std(ddof=config.ddof) + config.epsilon) if config.normalize else centred
    return advantages
