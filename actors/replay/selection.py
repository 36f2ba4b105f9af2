"""Which groups are trained on, and when: oldest first, the young may overtake while every old one still fits before its bound.

Where the bound is to be the age of every group, none goes before all that the bound admits is there.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from actors.types import GRADED, GroupMeta


def tells_apart(meta: GroupMeta) -> bool:
    """Whether two graded responses of the group earned different rewards; without that there is nothing to compare within it.

    Rewards are judged before anything is taken off them for their length or the KL: DAPO keeps groups of right and wrong answers.
    """
    shaping = meta.shaping or (0.0,) * len(meta.scores)
    plain = [round(score - shaped, 9) for score, shaped in zip(meta.scores, shaping, strict=True)]
    return len({score for score, outcome in zip(plain, meta.outcomes, strict=True) if outcome in GRADED}) > 1


def choose(step: int, ready: Mapping[int, int], running: Mapping[int, int], *, size: int, max_staleness: int) -> list[int] | None:
    """The ordinals of step `step`, in order, or None where it is better (or necessary) to wait.

    ready, running: ordinal -> the oldest version among its tokens (for a running one: the version it was admitted under).
    A group's age when trained is (step - 1) - version, and may not pass `max_staleness`. Step `step + k` trains on version
    `step - 1 + k`, so of the groups left behind at most `k * size` may be due by then, for every k.

    Waiting can only help while an older group is still running: without one, the oldest ready groups are the best step there will
    ever be. Under the admission rule they also keep the bound; after a learner group went back to its checkpoint, whose version
    then reaches the responses under way, they may be older, and show in `staleness/max`.
    """
    if len(ready) < size:
        return None
    chosen = sorted(ready, key=lambda ordinal: (ready[ordinal], ordinal))[:size]
    taken = set(chosen)
    left = [version for ordinal, version in (*ready.items(), *running.items()) if ordinal not in taken]
    youngest = max(ready[ordinal] for ordinal in chosen)
    settled = _all_fit(step, left, size, max_staleness) or all(version >= youngest for version in running.values())
    return sorted(chosen) if settled else None


def complete(step: int, ready: int, running: int, *, size: int, max_staleness: int, steps: int) -> bool:
    """Whether all that the bound admits before `step` is ready: then its oldest groups are exactly as old as they may be.

    ready, running: how many groups are. At the first step those of max_staleness + 1 steps must be there, all of version 0; each
    published version adds one step's, until those of the last step are there. That nothing is running is not enough: what a
    publication made room for may not be admitted yet.
    """
    return not running and ready >= min(max_staleness + 1, steps - step + 1) * size


def _all_fit(step: int, left: list[int], size: int, max_staleness: int) -> bool:
    if not left:
        return True
    # Steps from now in which a group is due at the latest: 0 means it had to be in this very step.
    due = np.maximum(0, np.asarray(left) + max_staleness - (step - 1))
    counts = np.cumsum(np.bincount(due))
    return bool((counts <= size * np.arange(len(counts))).all())
