"""`gmpo bench weights`: a publication to two engines, beside a bare broadcast of the same bytes through the same kind of group.

gmpo     the publisher drives every phase; two actors stand in for the engines: they join, receive, digest and unpack as the vLLM worker
         does, and let go of each tensor where vLLM's loader would take it
bare     one gloo broadcast after the other from a buffer that lies ready into one that lies ready, in chunks of the size found fastest
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from time import perf_counter
from typing import Any

import ray
import torch

from actors.errors import ConfigError
from actors.weights.config import WeightsConfig
from actors.weights.groups import GlooGroup
from actors.weights.protocol import ParamSpec, receive
from actors.weights.publisher import Publisher
from services.bench.results import Aim, Report, Row, Spread, device_name, ratios
from services.bench.surroundings import free_port, own_cluster, place

SENDING_AIM, PAUSE_AIM = 0.85, 0.5
CHUNKS_MIB = (4, 16, 64, 0)
"""Sizes that the bare broadcast is tried with; 0 is all at once."""
PHASES = ("connect", "pause", "send", "commit", "resume", "probe")
PROBE = ([1, 2], [0.0])
HIDDEN, INTERMEDIATE = 1_024, 3_072
TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Settings:
    """What is measured, and how often."""

    mib: int = 500
    engines: int = 2
    bucket_mib: int = WeightsConfig().bucket_mib
    threads: int = 1  # CPU threads of each process
    repeats: int = 5

    def __post_init__(self) -> None:
        if self.mib < 1:
            raise ConfigError("bench weights: --mib is at least 1")


class Layers:
    """Decoder layers of random float32 weights that come to a given size: what the publisher draws from."""

    def __init__(self, mib: int) -> None:
        self._specs = list(layer_specs(mib * 2**20))
        self._tensors = [torch.rand(spec.shape) for spec in self._specs]

    def specs(self) -> Sequence[ParamSpec]:
        """See WeightStream."""
        return self._specs

    def tensors(self) -> Iterator[torch.Tensor]:
        """See WeightStream."""
        return iter(self._tensors)


def layer_specs(size_bytes: int) -> Iterator[ParamSpec]:
    """Matrices and norms of one layer after the other; the last tensor is cut to fit."""
    square, wide, norm = (HIDDEN, HIDDEN), (INTERMEDIATE, HIDDEN), (HIDDEN,)
    left, number = size_bytes // 4, 0
    while left:
        for shape in (square, square, square, square, wide, wide, wide, norm, norm):
            if left:
                fitting = shape if math.prod(shape) <= left else (left,)
                left -= math.prod(fitting)
                yield ParamSpec(f"{number}", "float32", fitting)
                number += 1


class Engine:
    """Does with weights what an engine does, but for generating with them. Its calls may overlap."""

    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)
        self._digest = ""
        self._entered: dict[str, float] = {}

    def entered(self) -> dict[str, float]:
        """When each call of the last publication began, by the machine's monotonic clock; then forgets it."""
        entered, self._entered = self._entered, {}
        return entered

    def join(self, info: Mapping[str, Any]) -> None:
        """Join the publisher's group."""
        self._entered["connect"] = perf_counter()
        timeouts = {name: info[name] for name in ("connect_timeout_s", "send_timeout_s")}
        self._group = GlooGroup(info["address"], info["port"], info["rank_offset"], info["size"], **timeouts)
        self._bucket_bytes: int = info["bucket_bytes"]

    def pause(self) -> None:
        """There is nothing to pause."""
        self._entered["pause"] = perf_counter()

    def begin_update(self) -> None:
        """There is nothing to open."""

    def receive(self, params: Sequence[tuple[str, str, Sequence[int]]]) -> None:
        """Take one publication's bytes, tensor by tensor."""
        self._entered["send"] = perf_counter()
        specs = [ParamSpec(name, dtype, tuple(shape)) for name, dtype, shape in params]
        self._digest = receive(self._group, specs, self._bucket_bytes, lambda named: None)

    def commit(self, version: int) -> tuple[str, str]:
        """(digest of the bytes received, nothing more to compare)."""
        self._entered["commit"] = perf_counter()
        return self._digest, ""

    def resume(self) -> None:
        """There is nothing to resume."""
        self._entered["resume"] = perf_counter()

    def probe(self, token_ids: Sequence[int]) -> list[float]:
        """What the publisher expects."""
        self._entered["probe"] = perf_counter()
        return PROBE[1]

    def join_bare(self, address: str, port: int, rank: int, size: int) -> None:
        """Join the bare broadcast's group."""
        self._bare = _bare_group(address, port, rank, size)

    def take_bare(self, size_bytes: int, chunk_bytes: int) -> None:
        """Receive so many bytes into a buffer of that size."""
        self._buffer = getattr(self, "_buffer", torch.zeros(size_bytes, dtype=torch.uint8))
        for chunk in self._buffer.split(chunk_bytes):
            self._bare.broadcast(chunk)


def _bare_group(address: str, port: int, rank: int, size: int) -> GlooGroup:
    return GlooGroup(address, port, rank, size, connect_timeout_s=TIMEOUT_S, send_timeout_s=TIMEOUT_S)


@dataclass(frozen=True, slots=True)
class Published:
    """What one publication took."""

    send_s: float
    pause_s: float  # pause to resume
    phases: Mapping[str, float]


def phase_seconds(clocks: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """A phase lasts from when the first engine enters it until the first enters the next, and the last until `end`."""
    begun = {phase: min(clock[phase] for clock in clocks if phase in clock) for phase in PHASES if any(phase in clock for clock in clocks)}
    begun["end"] = max(clock.get("end", 0.0) for clock in clocks)
    names = list(begun)
    return {phase: begun[after] - begun[phase] for phase, after in pairwise(names)}


class Stand:
    """One sender, which is this process, and its engines."""

    def __init__(self, settings: Settings) -> None:
        torch.set_num_threads(settings.threads)
        self._layers = Layers(settings.mib)
        self._bytes = sum(spec.size_bytes for spec in self._layers.specs())
        self._engines = [place(Engine, settings.threads, concurrency=4) for _ in range(settings.engines)]
        self._publisher = Publisher(WeightsConfig(bucket_mib=settings.bucket_mib), "gloo", rank=0, tolerance=1.0)
        self._publisher.use(self._engines, 1)
        self._buffer = torch.cat([tensor.reshape(-1).view(torch.uint8) for tensor in self._layers.tensors()])
        address, port, size = ray.util.get_node_ip_address(), free_port(), 1 + settings.engines
        joining = [engine.join_bare.remote(address, port, 1 + index, size) for index, engine in enumerate(self._engines)]
        self._group = _bare_group(address, port, 0, size)
        ray.get(joining)

    def publish(self, version: int) -> Published:
        """One publication; `connect` is part of the first only."""
        publication = self._publisher.publish(version, self._layers, PROBE, lambda text: text)
        clocks = [*ray.get([engine.entered.remote() for engine in self._engines]), {"end": perf_counter()}]
        return Published(publication.metrics["weights/send_s"], publication.metrics["weights/pause_s"], phase_seconds(clocks))

    def broadcast(self, chunk_mib: int) -> float:
        """Seconds of one bare broadcast, until every engine has all bytes."""
        chunk_bytes = chunk_mib * 2**20 or self._bytes
        taking = [engine.take_bare.remote(self._bytes, chunk_bytes) for engine in self._engines]
        began = perf_counter()
        for chunk in self._buffer.split(chunk_bytes):
            self._group.broadcast(chunk)
        ray.get(taking)
        return perf_counter() - began

    def close(self) -> None:
        """Leave the groups and end the engines."""
        self._publisher.close()
        self._group.close()
        for engine in self._engines:
            ray.kill(engine)


def run(settings: Settings) -> Report:
    """Measure both ways in turns, and hold the publication against the bare broadcast."""
    with own_cluster():
        stand = Stand(settings)
        try:
            first = stand.publish(0)
            tried = {chunk: min(stand.broadcast(chunk) for _ in range(2)) for chunk in CHUNKS_MIB}
            chunk = min(tried, key=lambda size: tried[size])
            published, bare = [], []
            for repeat in range(settings.repeats):
                if repeat % 2:
                    bare.append(stand.broadcast(chunk))
                published.append(stand.publish(1 + repeat))
                if not repeat % 2:
                    bare.append(stand.broadcast(chunk))
        finally:
            stand.close()
    found = {
        "sending_over_bare": ratios(bare, [one.send_s for one in published]),
        "pause_to_resume_over_bare": ratios(bare, [one.pause_s for one in published]),
    }
    judged = settings == Settings(repeats=settings.repeats)
    aims = [Aim.at_least(name, bound, found[name]) for name, bound in zip(found, (SENDING_AIM, PAUSE_AIM), strict=True)]
    return Report(
        bench="weights",
        device=device_name("cpu"),
        settings=asdict(settings) | {"bare_chunk_mib": chunk or settings.mib},
        rows=[
            _row("gmpo, sending", [one.send_s for one in published], settings),
            _row("gmpo, pause to resume", [one.pause_s for one in published], settings),
            _row("bare", bare, settings),
            *_phase_rows(first, published),
        ],
        ratios=found,
        aims=aims if judged else [],
        notes=[
            "ratios: bare seconds over ours, of the same round; a publication moves the same bytes to as many engines",
            f"the bare broadcast's chunks: the fastest of {', '.join(str(size or settings.mib) for size in CHUNKS_MIB)} MiB",
            "phases by the engines' clocks, from the first engine's entry into one to the next; connect: of the first publication alone",
        ],
    )


def _row(way: str, seconds: Sequence[float], settings: Settings) -> Row:
    spread = Spread.of(seconds)
    return {
        "way": way,
        "seconds_median": spread.median,
        "seconds_low": spread.low,
        "seconds_high": spread.high,
        "mib_per_s_median": settings.mib / spread.median,
    }


def _phase_rows(first: Published, published: Sequence[Published]) -> list[Row]:
    rows: list[Row] = [{"way": "phase connect", "seconds_median": first.phases["connect"]}]
    for phase in PHASES[1:]:
        spread = Spread.of([one.phases[phase] for one in published])
        rows.append({"way": f"phase {phase}", "seconds_median": spread.median, "seconds_low": spread.low, "seconds_high": spread.high})
    return rows
