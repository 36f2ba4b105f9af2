"""From a step's rewards to advantages: one pure function per estimator, over the graded rewards of its groups.

Masked responses (not graded) leave all statistics and get 0. Within a group, fewer than two graded responses or equal rewards leave
nothing to compare: every estimator but REINFORCE++ without its baseline then gives 0 throughout, exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from actors.learner.config import AdvantageConfig, KlConfig, MeanAdvantage, ReinforceAdvantage, RlooAdvantage, ZScoreAdvantage
from actors.types import GRADED, GroupMeta

Rewards = NDArray[np.float64]
"""[g] the rewards of one group's graded responses, or what became of them."""
Estimator = Callable[[Sequence[Rewards]], list[Rewards]]


@dataclass(frozen=True, slots=True)
class StepAdvantages:
    """Advantages of a whole step, G per group: KL taken off the rewards, masked responses taken out, the estimator, zeros put back.

    reward_i = score_i - kl_cost x kl_i. Groups without `kl` raise ValueError where it costs something.
    """

    estimator: Estimator
    kl_cost: float = 0.0

    def __call__(self, metas: Sequence[GroupMeta]) -> list[NDArray[np.float64]]:
        """[groups][G], in the order of `metas`; 0 where a response is masked."""
        graded = [np.asarray([outcome in GRADED for outcome in meta.outcomes], dtype=np.bool_) for meta in metas]
        kept = [self._rewards(meta)[valid] for meta, valid in zip(metas, graded, strict=True)]
        advantages = [np.zeros(len(valid)) for valid in graded]
        for row, valid, values in zip(advantages, graded, self.estimator(kept), strict=True):
            row[valid] = values
        return advantages

    def _rewards(self, meta: GroupMeta) -> Rewards:
        scores = np.asarray(meta.scores, dtype=np.float64)
        if not self.kl_cost:
            return scores
        if len(meta.kl) != len(scores):
            raise ValueError(f"group {meta.ordinal}: {len(scores)} responses and {len(meta.kl)} KL estimates")
        return scores - self.kl_cost * np.asarray(meta.kl, dtype=np.float64)


def build(config: AdvantageConfig, kl: KlConfig) -> StepAdvantages:
    """What the recipe's `learner.advantage` and `learner.kl` say. Picklable: the queue actor calls it."""
    return StepAdvantages(_estimator(config), kl.coefficient if kl.place == "reward" else 0.0)


def _estimator(config: AdvantageConfig) -> Estimator:
    match config:
        case ZScoreAdvantage():
            return partial(_each, partial(z_scores, ddof=config.ddof, epsilon=config.epsilon))
        case MeanAdvantage():
            return partial(_each, centred)
        case RlooAdvantage():
            return partial(_each, leave_one_out)
        case ReinforceAdvantage():
            return partial(whitened, baseline=config.baseline, epsilon=config.epsilon)


def _each(estimate: Callable[[Rewards], Rewards], groups: Sequence[Rewards]) -> list[Rewards]:
    return [estimate(rewards) for rewards in groups]


def centred(rewards: Rewards) -> Rewards:
    """r_i - mean(r) (Dr. GRPO, arXiv 2503.20783). Equal rewards give 0 and not what rounding leaves of it."""
    if rewards.size < 2 or np.ptp(rewards) == 0:
        return np.zeros_like(rewards)
    differences: Rewards = rewards - rewards.mean()
    return differences


def z_scores(rewards: Rewards, *, ddof: int, epsilon: float) -> Rewards:
    """(r_i - mean(r)) / (std(r) + epsilon) (GRPO, arXiv 2402.03300; GMPO, arXiv 2507.20673).

    std divides by g - ddof: 1 is what the public GMPO code does, 0 the population's.
    """
    differences = centred(rewards)
    if not differences.any():
        return differences
    return differences / (float(rewards.std(ddof=ddof)) + epsilon)


def leave_one_out(rewards: Rewards) -> Rewards:
    """r_i - mean of the other rewards = g / (g - 1) x (r_i - mean(r)) (RLOO, arXiv 2402.14740)."""
    return centred(rewards) * (rewards.size / max(1, rewards.size - 1))


def whitened(groups: Sequence[Rewards], *, baseline: bool, epsilon: float) -> list[Rewards]:
    """x_i / (std + epsilon), std being the root mean square of x over all graded responses of the step (REINFORCE++, arXiv 2501.03262).

    baseline: x_i = r_i - mean of its group, whose mean over the step is 0 already; a group with nothing to compare gets 0, and
    counts in std. Otherwise x_i = r_i - mean of the step: then a lone response, or a group whose rewards are equal, gets what sets it
    apart from the other groups. Equal rewards throughout the step (std 0) give 0. std has ddof 0; each response counts once, whatever
    its length.
    """
    if baseline:
        differences = [centred(rewards) for rewards in groups]
    else:
        differences = np.split(centred(np.concatenate(groups)), np.cumsum([rewards.size for rewards in groups])[:-1])
    every = np.concatenate(differences)
    if not every.any():
        return differences
    return [difference / (np.sqrt(np.mean(every**2)) + epsilon) for difference in differences]
