"""The actor that writes what each step was trained on, beside the driver: one that lives as long as the run is ready at once."""

from __future__ import annotations

from pathlib import Path

from actors.records import record_path, write_groups
from actors.replay.freeze import FrozenStep
from actors.types import RolloutGroup


class Recorder:
    """Writes to a run's folder `rollouts/`. Writing a step again writes the same."""

    def record(self, directory: Path, frozen: FrozenStep, *groups: RolloutGroup) -> None:
        """The groups of a published step, in the order of its ordinals."""
        filtered = int(frozen.metrics.get("reward/filtered_groups", 0))
        path = record_path(directory, frozen.step)
        write_groups(path, groups, frozen.metas, step=frozen.step, filtered=filtered, advantages=frozen.advantages)
