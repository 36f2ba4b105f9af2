"""Overlong reward shaping: a response pays for its last tokens before the token limit."""

from __future__ import annotations

from dataclasses import replace

from actors.reward.config import OverlongConfig
from actors.types import Verdict

LABEL = "overlong"


def shaped(verdict: Verdict, length: int, config: OverlongConfig) -> Verdict:
    """The verdict of a response of `length` tokens, its length paid for (DAPO, arXiv 2503.14476, eq. 13); an ungraded one as it is.

    With L_max = limit and L_cache = buffer: R(y) = 0 up to L_max - L_cache tokens, then ((L_max - L_cache) - |y|) / L_cache, and -1
    beyond L_max. score + penalty x R(y); R(y) is the part "overlong".
    """
    if not verdict.graded:
        return verdict
    part = min(0.0, max(-1.0, (config.limit - config.buffer - length) / config.buffer))
    return replace(verdict, score=verdict.score + config.penalty * part, parts={**verdict.parts, LABEL: part})
