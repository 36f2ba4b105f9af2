"""Everything that `gmpo plan` says, found before any of it is shown."""

from __future__ import annotations

from dataclasses import dataclass

from services.plan.colocated import Colocated, colocated
from services.plan.layout import Layout
from services.plan.remedies import remedies


@dataclass(frozen=True, slots=True)
class Answer:
    """A layout, what the paper's would be beside it, and what would make it fit."""

    name: str  # of the recipe or the model
    note: str | None  # where the sizes are from, if that is not plain from the question
    layout: Layout
    paper: Colocated | None  # None on CPUs, where it does not fit, and where pools share GPUs
    remedies: tuple[str, ...]  # none where it fits, and where nothing that was tried does


def answer(name: str, note: str | None, layout: Layout) -> Answer:
    """The whole answer to a question of that name."""
    found = layout.estimate
    if not found.machine.gpus:
        return Answer(name, note, layout, None, ())
    if not found.fits:
        return Answer(name, note, layout, None, tuple(remedies(layout)))
    paper = None if found.shared else colocated(layout, found.shape, found.machine)
    return Answer(name, note, layout, paper, ())
