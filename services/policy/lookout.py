"""Which versions a run has and what each name means, as of the last look; one replica's view, which all replicas come to share.

look ──► steps and manifests (catalogue), orders (serving.json), metrics (evaluations), newest trained step
name ──► step:  policy@step-N   policy@best   (`policy` itself is what the replica has in memory: see residents)
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any

from actors.errors import NotResident, PolicyVersionError, UnknownVersion
from actors.weights.manifest import Manifest
from services.policy import ranking
from services.policy.catalogue import Catalogue
from services.policy.orders import Orders, read
from services.policy.slots import Version

log = logging.getLogger(__name__)

POLICY, BEST = "policy", "policy@best"
_STEP = re.compile(r"policy@step-(0|[1-9]\d{0,11})")
STORAGE_S = 5.0
"""Seconds after which storage that failed is worth another try."""
REFUSED_S = 60.0
"""Seconds until a version that was refused is looked at again: someone may have mended it."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A version that must not be loaded, and why."""

    reason: str
    until: float  # monotonic seconds


@dataclass(slots=True)
class Lookout:
    """What a replica knows; `look` blocks, everything else answers at once."""

    policies: str  # path or URL of the folder of versions
    run_dir: Path
    best_by: str
    catalogue: Catalogue
    manifests: dict[int, Manifest] = field(default_factory=dict)  # oldest first
    refusals: dict[int, Refusal] = field(default_factory=dict)
    orders: Orders = field(default_factory=Orders)
    metrics: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    trained: int = 0  # newest step that the run has trained
    trouble: str | None = None  # why the last look failed; what was known before stands
    looked: float = 0.0  # monotonic seconds of the last look that succeeded
    _refusing: Lock = field(default_factory=Lock)

    def look(self) -> None:
        """Look again; called in a thread."""
        try:
            self._look()
            self.trouble = None
        except Exception as error:  # the storage is away, or someone wrote nonsense into a file: what was known stands
            if self.trouble is None:
                log.error("the versions cannot be looked up: %s", error)
            self.trouble = f"{type(error).__name__}: {error}"

    def _look(self) -> None:
        now, steps = time.monotonic(), self.catalogue.steps()
        manifests, unreadable = {}, {}
        for step in steps:
            try:
                manifests[step] = self.catalogue.manifest(step)
            except PolicyVersionError as error:
                unreadable[step] = Refusal(str(error), now + REFUSED_S)
        with self._refusing:
            standing = {step: refusal for step, refusal in self.refusals.items() if refusal.until > now and step in steps}
            self.manifests, self.refusals = manifests, standing | unreadable
        self.looked = now
        self.trained = max((*self.metrics, *manifests), default=0)
        self.orders = read(self.policies)
        self.metrics = ranking.metrics_by_step(self.run_dir)
        self.trained = max((*self.metrics, *manifests), default=0)

    def fetch(self, step: int, like: Path | None) -> Version:
        """A version ready to be loaded, and fit for an engine that holds `like`.

        Raises PolicyVersionError, which is remembered, for a bad one; NotResident where the storage does not give it just now.
        """
        try:
            path = self.catalogue.fetch(step, like=like)
            return Version(self.catalogue.manifest(step), path)
        except PolicyVersionError as error:
            self.refuse(step, str(error))
            raise
        except OSError as error:
            raise NotResident(f"policy@step-{step} cannot be had from its storage: {error}", retry_after_s=STORAGE_S) from None

    def refuse(self, step: int, reason: str) -> None:
        """Remember that a version must not be loaded."""
        with self._refusing:
            if step not in self.refusals:
                log.error("policy version refused: %s", reason)
            self.refusals[step] = Refusal(reason, time.monotonic() + REFUSED_S)

    @property
    def good(self) -> list[int]:
        """Steps that may be loaded, as far as is known, oldest first."""
        return [step for step in self.manifests if step not in self.refusals]

    @property
    def wanted(self) -> int | None:
        """The step that `policy` is to mean: the promoted one, or the newest good one."""
        if self.orders.promoted is not None and self.orders.promoted in self.manifests:
            return self.orders.promoted if self.orders.promoted not in self.refusals else None
        return self.good[-1] if self.good else None

    @property
    def best(self) -> int | None:
        """The step that `policy@best` means; None while no version has been evaluated."""
        return ranking.best(self.metrics, self.best_by, self.good)

    def step(self, name: str, policy: int | None) -> int:
        """The step that a model's name means, `policy` being what that word means here; UnknownVersion where it means nothing."""
        if name == POLICY and policy is not None:
            return policy
        if name == BEST:
            if (best := self.best) is None:
                raise UnknownVersion(f"no version has been evaluated by {self.best_by} yet, so none is the best")
            return best
        if (match := _STEP.fullmatch(name)) and (step := int(match[1])) in self.manifests:
            if (refusal := self.refusals.get(step)) is not None:
                raise PolicyVersionError(refusal.reason)
            return step
        raise UnknownVersion(f"the model {name[:100]!r} does not exist; GET /v1/policies lists those that do")

    def describe(self, policy: int | None, resident: Collection[int] = ()) -> dict[str, Any]:
        """What GET /v1/policies says, `policy` being what that word means here."""
        return {
            "object": "list",
            "policy": policy,
            "best": self.best,
            "best_by": self.best_by,
            "following": self.orders.promoted is None,
            "trouble": self.trouble,
            "data": [self._row(step, step in resident) for step in sorted({*self.manifests, *self.refusals})],
        }

    def _row(self, step: int, resident: bool) -> dict[str, Any]:
        manifest, refusal = self.manifests.get(step), self.refusals.get(step)
        seconds, steps = self.age(manifest) if manifest else (None, None)
        return {
            "id": f"{POLICY}@step-{step}",
            "step": step,
            "weights": manifest.weights_sha256 if manifest else None,
            "created": manifest.created.isoformat() if manifest else None,
            "age_seconds": seconds,
            "age_steps": steps,
            "resident": resident,
            "pinned": step in self.orders.pinned,
            "metrics": dict(self.metrics.get(step, {})),
            "refused": refusal.reason if refusal else None,
        }

    def age(self, manifest: Manifest) -> tuple[int, int]:
        """(whole seconds since a version was written, steps that were trained since)."""
        seconds = (datetime.now(UTC) - manifest.created).total_seconds()
        return int(seconds), max(self.trained - manifest.step, 0)
