"""The actor that writes what each step was trained on, beside the driver: one that lives as long as the run is ready at once."""

from __future__ import annotations

from pathlib import Path

from actors.records import record_path, write_groups
from actors.replay.freeze import FrozenStep
from actors.types import RolloutGroup


class Recorder:
    """Writes to the folder `rollouts/` of one run. Writing a step again writes the same."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def record(self, frozen: FrozenStep, *groups: RolloutGroup) -> None:
        """The groups of a published step, in the order of its ordinals."""
        filtered = int(frozen.metrics.get("reward/filtered_groups", 0))
        path = record_path(self._directory, frozen.step)
        write_groups(path, groups, frozen.metas, step=frozen.step, filtered=filtered, advantages=frozen.advantages)
