"""Settings of the replay queue and the staleness bound."""

from __future__ import annotations

from pydantic import Field

from actors.section import Section


class ReplayConfig(Section):
    """How far generation may run ahead of learning."""

    max_staleness: int = Field(1, ge=0)
    """Largest age, in versions, of a group when it is trained on; 0 is synchronous and, on a CPU with one engine, bit-reproducible."""
    exact_staleness: bool = False
    """Make max_staleness the age of every group, for experiments on it: step s trains on what version max(0, s - 1 - max_staleness)
    sampled. Generation and learning take turns, as without staleness, and the run is as reproducible.

    Also after the learner group went back to its checkpoint, and in a resumed run, unless dynamic_sampling dropped prompts after the
    checkpoint. Where an engine dies the ages stay, but prompts are sampled again in other company, so the bits may differ. A group
    that is lost is sampled again under the present version: up to max_staleness steps then hold a group one version younger."""
    capacity: int | None = Field(None, gt=0)
    """Groups the queue holds ready; by default all that the staleness bound admits."""
    stale_after_s: float = Field(600, gt=0)
    """Seconds that responses at the staleness bound may hold a full step back; then their prompts are dropped as stale. With
    exact_staleness those that take their places have twice as long, so that a step that needs longer comes together all the same."""
    dynamic_sampling: bool = False
    """Drop groups whose graded responses all earned the same reward and sample other prompts in their place (DAPO, arXiv 2503.14476)."""
    max_filtered: int = Field(1000, gt=0)
    """So many groups dropped by dynamic_sampling, without one kept between them, end the run: there is nothing to learn. Not one in
    a thousand means that fewer than 0.3 % of the prompts teach anything (with 95 % certainty)."""

    @property
    def by_turns(self) -> bool:
        """Whether generation and learning take turns: a version samples the prompts of a whole step, and only then learning goes on."""
        return self.max_staleness == 0 or self.exact_staleness
