"""`gmpo bench queue`: groups per second through the replay queue, beside the same payloads handed over without it.

gmpo     the conductor's way: a producer's call returns (metadata, payload), the driver awaits the metadata and puts the wrapped reference
         into the queue; a learner rank claims a step, fetches it, acks and commits it
calls    the driver passes the references of a batch of producer calls to the consumer, which gets them
puts     the same where producers `ray.put` and return the reference

Producers, consumer, batch and the bound on groups in flight are the same for all. What the driver takes in of the payload is read off
the kernel: bytes over its TCP connections, and pages of the object store that it touched.
"""

from __future__ import annotations

import asyncio
import itertools
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import ray

from actors.errors import ConfigError, GmpoError
from actors.replay.ledger import State
from actors.replay.messages import Arrival
from services.bench.payloads import Consumer, Producers
from services.bench.results import Aim, Report, Row, Spread, device_name, ratios
from services.bench.surroundings import control_recipe, own_cluster, place, received_bytes, touched_store_bytes
from services.cluster import PAYLOADS_STAY
from services.training.admission import Admission
from services.training.gathering import Gathering
from services.training.keeper import Keeper
from services.training.pools import replay_queue
from services.training.rundir import RunDirectory

SPEED_AIM = 0.8
INLINED_BELOW_KIB = 100
"""Ray sends smaller results to their owner with the reply to the call."""
ACTORS = 4
"""Processes that all producers share."""
BARE = {"calls": ("payload", "take"), "puts": ("put", "take_puts")}
"""Ways without a queue: methods of producer and consumer."""
WAYS = ("gmpo", *BARE)
STAGES = (State.GENERATED, State.VERIFIED)


@dataclass(frozen=True, slots=True)
class Settings:
    """What is measured, and how often."""

    groups: int = 10_000
    kib: tuple[int, ...] = (256, 50)
    producers: int = 64
    batch: int = 50  # groups of a step
    ahead: int = 4  # steps of groups that may be in flight beside the one that is trained
    repeats: int = 3

    def __post_init__(self) -> None:
        if self.groups < self.batch:
            raise ConfigError(f"bench queue: {self.groups} groups do not fill a batch of {self.batch}")

    @property
    def steps(self) -> int:
        """Whole batches."""
        return self.groups // self.batch

    @property
    def moved(self) -> int:
        """Groups that are moved."""
        return self.steps * self.batch


@dataclass(frozen=True, slots=True)
class Moved:
    """One way, once."""

    way: str
    seconds: float
    driver_cpu_s: float
    received: int  # bytes over the driver's TCP connections
    touched: int  # bytes of the object store that the driver mapped in


class Stand:
    """Producers and consumer of one payload size, and the ways to move groups from one to the other."""

    def __init__(self, settings: Settings, kib: int) -> None:
        self._producers = _producers(settings, kib, PAYLOADS_STAY)
        self._bare_producers = _producers(settings, kib, {})
        self._consumer = place(Consumer)
        ray.get(self._consumer.take.remote([]))  # its process is up

    def move(self, way: str, settings: Settings) -> Moved:
        """All groups, once. GmpoError if some were lost or came twice."""
        with tempfile.TemporaryDirectory(prefix="gmpo-bench-") as directory:
            queue = _queue(settings, Path(directory)) if way == "gmpo" else None
            gauges = received_bytes(), touched_store_bytes()
            began, began_cpu = time.perf_counter(), time.process_time()
            total = asyncio.run(self._through(queue, settings)) if queue else self._bare(*BARE[way], settings)
            seconds, cpu_s = time.perf_counter() - began, time.process_time() - began_cpu
            moved = Moved(way, seconds, cpu_s, received_bytes() - gauges[0], touched_store_bytes() - gauges[1])
            if queue:
                ray.get(queue.close.remote())
                ray.kill(queue)
        if total != sum(range(settings.moved)):
            raise GmpoError(f"bench queue: the groups that came by the way {way} are not those that were sent")
        return moved

    def close(self) -> None:
        """End the actors."""
        for actor in {*self._producers, *self._bare_producers, self._consumer}:
            ray.kill(actor)

    def _bare(self, produce: str, take: str, settings: Settings) -> int:
        """Batch after batch, `ahead` of them in flight beside the one that is awaited."""
        producers, total = itertools.cycle(self._bare_producers), 0
        taking: deque[Any] = deque()
        for step in range(settings.steps):
            if len(taking) > settings.ahead:
                total += ray.get(taking.popleft())
            ordinals = range(step * settings.batch, (step + 1) * settings.batch)
            refs = [getattr(next(producers), produce).remote(ordinal) for ordinal in ordinals]
            taking.append(getattr(self._consumer, take).remote(refs))
        return total + int(sum(ray.get(list(taking))))

    async def _through(self, queue: Any, settings: Settings) -> int:
        """The conductor's way, with its own admission and keeper."""
        driver = _Driver(queue, Admission((settings.ahead + 1) * settings.batch, least=settings.batch), iter(range(settings.moved)))
        learning = self._consumer.learn.remote(queue, settings.steps)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(driver.follow(settings.steps))
            for producer in self._producers:
                tasks.create_task(driver.drive(producer))
        total: int = await learning
        return total


def _producers(settings: Settings, kib: int, environment: Mapping[str, str]) -> list[Any]:
    """Handles of all producers, which share a few processes; these are up."""
    actors = [place(Producers, kib, environment=environment) for _ in range(min(ACTORS, settings.producers))]
    ray.get([actor.payload.remote(0) for actor in actors])
    return list(itertools.islice(itertools.cycle(actors), settings.producers))


def _queue(settings: Settings, directory: Path) -> Any:
    """The queue of a run of so many steps, begun."""
    recipe = control_recipe(directory, steps=settings.steps, prompts_per_step=settings.batch, max_staleness=settings.ahead)
    queue = replay_queue(recipe, RunDirectory(recipe), [], 0)
    ray.get(queue.begin_with.remote(Keeper().belongings()))
    return queue


class _Driver:
    """What the conductor does with groups and publications, and nothing else of it."""

    def __init__(self, queue: Any, admission: Admission, ordinals: Iterator[int]) -> None:
        self._queue, self._admission, self._ordinals = queue, admission, ordinals
        self._keeper, self._step = Keeper(), 0
        self._admit = Gathering(self._admit_all)
        self._put: Gathering[Arrival, bool] = Gathering(lambda arrivals: queue.put.remote(arrivals))

    async def _admit_all(self, ordinals: Sequence[int]) -> Sequence[None]:
        await self._queue.admit.remote(list(ordinals))
        return [None] * len(ordinals)

    async def drive(self, producer: Any) -> None:
        """One producer's groups, one after the other."""
        for ordinal in self._ordinals:
            await self._admission.admit(1)
            await self._admit(ordinal)
            answer, group = producer.group.options(num_returns=2).remote(ordinal, self._step)
            meta = await answer
            self._keeper.keep(meta, group)
            await self._put(Arrival((meta, [group]), STAGES))

    async def follow(self, steps: int) -> None:
        """Let go of what is trained, and admit more."""
        while self._step < steps:
            published = await self._queue.next_published.remote(self._step)
            self._step = published.step
            ordinals = published.frozen.ordinals
            self._keeper.settle(self._step, ordinals, committed=published.committed)
            await self._admission.free(len(ordinals))


def run(settings: Settings) -> Report:
    """Measure each size, and hold the figures against the aims."""
    rows: list[Row] = []
    found: dict[str, Spread] = {}
    aims: list[Aim] = []
    with own_cluster():
        for kib in settings.kib:
            measured = _rounds(settings, kib)
            rows += [_row(way, moves, settings, kib) for way, moves in measured.items()]
            found |= _ratios(measured, settings, kib)
    if settings == Settings(repeats=settings.repeats):
        aims += [Aim.at_least(name, SPEED_AIM, spread) for name, spread in found.items() if name.startswith("gmpo_over_puts")]
        aims += [Aim.at_most(name, 0, spread) for name, spread in found.items() if name.startswith("store_bytes")]
    return Report(
        bench="queue",
        device=device_name("cpu"),
        settings=asdict(settings) | {"moved": settings.moved, "in_flight": (settings.ahead + 1) * settings.batch},
        rows=rows,
        ratios=found,
        aims=aims,
        notes=[
            "ratios: groups per second of the same round",
            "store bytes by driver: pages of the object store that the driver touched, over the payload; not one means that it read none",
            "received by driver: all bytes over its TCP connections (control messages too), over the payload",
            f"Ray sends results under {INLINED_BELOW_KIB} KiB to their owner with the reply; the pools' own actors only those under 16 KiB",
        ],
    )


def _rounds(settings: Settings, kib: int) -> dict[str, list[Moved]]:
    """Every way so many times, in turns, each round begun by another; one small round first, for connections and code."""
    measured: dict[str, list[Moved]] = {way: [] for way in WAYS}
    stand = Stand(settings, kib)
    try:
        warming = replace(settings, groups=settings.batch * min(settings.steps, settings.ahead + 1))
        for way in WAYS:
            stand.move(way, warming)
        for repeat in range(settings.repeats):
            for way in (*WAYS[repeat % 3 :], *WAYS[: repeat % 3]):
                measured[way].append(stand.move(way, settings))
    finally:
        stand.close()
    return measured


def _row(way: str, moves: Sequence[Moved], settings: Settings, kib: int) -> Row:
    rates = Spread.of([settings.moved / move.seconds for move in moves])
    return {
        "way": way,
        "kib": kib,
        "groups_per_s_median": rates.median,
        "groups_per_s_low": rates.low,
        "groups_per_s_high": rates.high,
        "mib_per_s_median": rates.median * kib / 1024,
        "driver_cpu_ms_per_group": Spread.of([move.driver_cpu_s / settings.moved * 1e3 for move in moves]).median,
        "driver_received_kib_per_group": Spread.of([move.received / settings.moved / 1024 for move in moves]).median,
        "driver_store_bytes": max(move.touched for move in moves),
    }


def _ratios(measured: Mapping[str, Sequence[Moved]], settings: Settings, kib: int) -> dict[str, Spread]:
    """Of one payload size."""
    ours = measured["gmpo"]
    payload = settings.moved * kib * 1024
    return {
        **{
            f"gmpo_over_{way}, {kib} KiB": ratios([move.seconds for move in measured[way]], [move.seconds for move in ours]) for way in BARE
        },
        f"store_bytes_by_driver, {kib} KiB": Spread.of([move.touched / payload for move in ours]),
        f"received_by_driver, {kib} KiB": Spread.of([move.received / payload for move in ours]),
    }
