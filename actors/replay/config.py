"""Settings of the replay queue and the staleness bound."""

from __future__ import annotations

from pydantic import Field

from actors.section import Section


class ReplayConfig(Section):
    """How far generation may run ahead of learning."""

    max_staleness: int = Field(1, ge=0)
    """Largest age, in versions, of a group when it is trained on; 0 is synchronous and, on a CPU with one engine, bit-reproducible."""
    capacity: int | None = Field(None, gt=0)
    """Groups the queue holds ready; by default all that the staleness bound admits."""
    stale_after_s: float = Field(600, gt=0)
    """Seconds that responses at the staleness bound may hold a full step back; then their prompts are dropped as stale."""
    dynamic_sampling: bool = False
    """Drop groups whose graded responses all earned the same reward and sample other prompts in their place (DAPO, arXiv 2503.14476)."""
    max_filtered: int = Field(1000, gt=0)
    """So many groups dropped by dynamic_sampling, without one kept between them, end the run: there is nothing to learn. Not one in
    a thousand means that fewer than 0.3 % of the prompts teach anything (with 95 % certainty)."""
