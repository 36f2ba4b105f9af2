"""One replica's front desk: it knows the versions, keeps the engines, and carries out what an operator orders.

    every poll_s:  look at the catalogue and the orders ──► is `policy` what it should be? ──► if not, promote

All replicas read the same orders from the same folder, so they converge without talking to each other.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.errors import ConfigError, EngineError, GmpoError, NotResident, PolicyVersionError, UnknownVersion
from services.policy.catalogue import Catalogue
from services.policy.config import ServeConfig
from services.policy.engine import ServingEngine
from services.policy.keys import KeyRing
from services.policy.lookout import POLICY, Lookout
from services.policy.orders import Orders, read, write
from services.policy.residents import Residents
from services.policy.slots import Slot, Version

log = logging.getLogger(__name__)

LOOK_AGAIN_S = 0.2
"""Age of the last look from which on an unknown name is worth another one."""

Change = Callable[[Orders], Orders]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run is."""

    run_dir: Path
    policies: str  # path or URL of its versions
    cache: Path | None  # where versions from a URL are copied to


class Desk:
    """Built in the event loop that answers requests; `open` returns once the first engine is up."""

    def __init__(self, place: Place, config: ServeConfig, keys: KeyRing) -> None:
        self.config, self._keys, self._policies = config, keys, place.policies
        catalogue = Catalogue(place.policies, cache=place.cache, keep=config.resident + 2)
        self.lookout = Lookout(place.policies, place.run_dir, config.best_by, catalogue)
        self.residents: Residents[ServingEngine] = Residents(
            self._start, self._fetch, limit=config.resident, stay_s=config.stay_s, wait_s=config.wait_s
        )
        self._like: Path | None = None  # a version as the engines hold it: others must have its shapes and its tokenizer
        self._orders, self._converging = asyncio.Lock(), asyncio.Lock()
        self._following: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Bring the first engine up; PolicyVersionError with every reason where no version is good."""
        await self._look()
        await self.residents.open()
        await self._converge()
        self._following = asyncio.create_task(self._follow())

    async def close(self) -> None:
        """Stop following and end the engines."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)
        await self.residents.close()

    async def borrow(self, name: str) -> Slot[ServingEngine]:
        """A slot with the version that a model's name means. Raises UnknownVersion, PolicyVersionError or NotResident."""
        return await self.residents.borrow(await self.step(name))

    async def step(self, name: str) -> int:
        """The step a model's name means; a version that has just come is looked for."""
        try:
            return self.lookout.step(name, self.residents.policy_step)
        except UnknownVersion:
            if time.monotonic() - self.lookout.looked < LOOK_AGAIN_S:
                raise
            await self._look()
            return self.lookout.step(name, self.residents.policy_step)

    async def order(self, change: Change) -> None:
        """Write down an operator's order for every replica, and follow it here at once. PolicyVersionError if it cannot be followed."""
        async with self._orders:
            await self._look()
            try:
                orders = change(await asyncio.to_thread(read, self._policies))
                await asyncio.to_thread(write, self._policies, orders)
            except OSError as error:
                raise NotResident(f"the orders cannot be written: {error}") from None
            await self._look()
        await self._converge()

    async def promote(self, step: int) -> None:
        """Let `policy` mean a version, once that has proved good."""
        if await self.step(f"{POLICY}@step-{step}") not in self.residents.steps:
            await self._fetch(step)
        await self.order(lambda orders: orders.promote(step))

    async def rollback(self) -> None:
        """Let `policy` mean the newest good version older than what it means now."""
        serving = self.residents.serving
        current = serving.step if serving else 0
        await self.order(lambda orders: orders.rollback(current, self.lookout.good))

    async def _follow(self) -> None:
        """Never waits for a promotion: that may wait for an engine which has to be replaced first."""
        promotion: asyncio.Task[None] | None = None
        while True:
            await asyncio.sleep(self.config.poll_s)
            try:
                await asyncio.to_thread(self._refresh_keys)
                await self._look()
                self.residents.mend()
                if promotion is None or promotion.done():
                    promotion = asyncio.create_task(self._converge())
            except Exception:  # whatever it is, the next round must come: keys are taken back and engines replaced here
                log.exception("a round of following failed")

    async def _converge(self) -> None:
        """Promote until `policy` means what it should."""
        async with self._converging:
            while (wanted := self.lookout.wanted) is not None and not self._serves(wanted):
                try:
                    await self.residents.promote(wanted)
                except PolicyVersionError as error:
                    self.lookout.refuse(wanted, str(error))  # the old version answers on
                except GmpoError as error:
                    log.error("policy@step-%d could not be promoted: %s", wanted, error)
                    return

    def _serves(self, step: int) -> bool:
        serving = self.residents.serving
        return serving is not None and serving.step == step

    def _refresh_keys(self) -> None:
        """A file of keys that is being written, or cannot be read, takes nobody's key away."""
        try:
            self._keys.refresh()
        except (ConfigError, OSError) as error:
            log.error("the keys stay as they were: %s", error)

    @property
    def follows(self) -> bool:
        """Whether it still looks after versions, keys and engines."""
        return self._following is None or not self._following.done()

    async def _look(self) -> None:
        await asyncio.to_thread(self.lookout.look)

    async def _fetch(self, step: int) -> Version:
        return await asyncio.to_thread(self.lookout.fetch, step, self._like)

    async def _start(self) -> tuple[ServingEngine, Version]:
        """An engine with what `policy` is to mean, or with the newest version that is good."""
        while candidates := [step for step in (self.lookout.wanted, *reversed(self.lookout.good)) if step is not None]:
            with contextlib.suppress(PolicyVersionError):
                return await self._started(candidates[0])
            await self._look()
        reasons = "; ".join(refusal.reason for refusal in self.lookout.refusals.values())
        raise PolicyVersionError(f"no policy version can be served: {reasons or self.lookout.trouble or 'there is none yet'}")

    def describe(self) -> dict[str, Any]:
        """What GET /v1/policies says."""
        serving = self.residents.serving
        return self.lookout.describe(serving.step if serving else None, self.residents.steps)

    async def _started(self, step: int) -> tuple[ServingEngine, Version]:
        """An engine with a version; of a run whose versions go faster than an engine starts, with the oldest, which training keeps."""
        try:
            return await self._built(await self._fetch(step))
        except EngineError:
            await self._look()
            if step in self.lookout.manifests or not self.lookout.good:
                raise
            return await self._built(await self._fetch(self.lookout.good[0]))

    async def _built(self, version: Version) -> tuple[ServingEngine, Version]:
        engine = await asyncio.to_thread(ServingEngine, self.config, version.path)
        try:
            await engine.open()
        except BaseException:
            await asyncio.to_thread(engine.stop)
            raise
        self._like = self._like or version.path
        return engine, version
