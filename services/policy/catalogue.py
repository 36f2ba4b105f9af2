"""Which policy versions a run has, and the newest that may be served."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from actors.errors import PolicyVersionError
from actors.weights.version import Manifest, committed_steps, read_manifest, verify_version, version_path

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A version that was passed over, and why."""

    step: int
    reason: str


@dataclass(frozen=True, slots=True)
class Selection:
    """The newest version that holds what its manifest says, and the newer ones that do not."""

    manifest: Manifest
    path: Path
    refused: tuple[Refusal, ...]


class Catalogue:
    """The versions under `<run directory>/policies`, read from disk at every call: training goes on adding to them."""

    def __init__(self, run_dir: Path) -> None:
        self.policies = run_dir / "policies"

    def path(self, step: int) -> Path:
        """Where the version of a step is, or would be."""
        return version_path(self.policies, step)

    def versions(self) -> list[Manifest]:
        """The committed versions, oldest first, by their manifests; one whose manifest cannot be read is logged and left out."""
        manifests = []
        for step in committed_steps(self.policies):
            try:
                manifests.append(read_manifest(self.path(step)))
            except PolicyVersionError as error:
                log.warning("policy version left out: %s", error)
        return manifests

    def newest(self) -> Manifest:
        """The latest committed version, not verified; PolicyVersionError where there is none."""
        versions = self.versions()
        if not versions:
            raise PolicyVersionError(f"{self.policies}: no policy version yet")
        return versions[-1]

    def select(self) -> Selection:
        """Verify versions from the newest back until one is good; PolicyVersionError with every reason where none is."""
        refused: list[Refusal] = []
        for step in reversed(committed_steps(self.policies)):
            try:
                manifest = verify_version(self.path(step))
                if manifest.step != step:
                    raise PolicyVersionError(f"{self.path(step)}: the manifest is of step {manifest.step}")
            except PolicyVersionError as error:
                log.error("policy version refused: %s", error)
                refused.append(Refusal(step, str(error)))
            else:
                return Selection(manifest, self.path(step), tuple(refused))
        if not refused:
            raise PolicyVersionError(f"{self.policies}: no policy version yet")
        raise PolicyVersionError(f"no policy version can be served: {'; '.join(refusal.reason for refusal in refused)}")
