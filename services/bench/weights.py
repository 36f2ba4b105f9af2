"""`gmpo bench weights`: a publication to two engines, beside a bare broadcast of the same bytes through the same kind of group.

gmpo     the publisher drives every phase; two actors stand in for the engines: they join, receive and digest as the vLLM worker does, and
         copy each tensor into a parameter where vLLM's loader would
bare     one gloo broadcast after the other from a buffer that lies ready into one that lies ready, in chunks of the size found fastest
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import ray
import torch

from actors.errors import ConfigError
from actors.weights.config import WeightsConfig
from actors.weights.groups import GlooGroup
from actors.weights.protocol import ParamSpec, receive
from actors.weights.publisher import Publisher
from services.bench.surroundings import free_port, place

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
        self._parameters: dict[str, torch.Tensor] = {}
        self._digest = ""

    def join(self, info: Mapping[str, Any]) -> None:
        """Join the publisher's group."""
        timeouts = {name: info[name] for name in ("connect_timeout_s", "send_timeout_s")}
        self._group = GlooGroup(info["address"], info["port"], info["rank_offset"], info["size"], **timeouts)
        self._bucket_bytes: int = info["bucket_bytes"]

    def pause(self) -> None:
        """There is nothing to pause."""

    def begin_update(self) -> None:
        """There is nothing to open."""

    def receive(self, params: Sequence[tuple[str, str, Sequence[int]]]) -> None:
        """Take one publication's bytes and put them into the parameters."""
        specs = [ParamSpec(name, dtype, tuple(shape)) for name, dtype, shape in params]
        for spec in specs:
            if spec.name not in self._parameters:
                self._parameters[spec.name] = torch.zeros(spec.shape, dtype=spec.torch_dtype)
        self._digest = receive(self._group, specs, self._bucket_bytes, self._load)

    def _load(self, named: Sequence[tuple[str, torch.Tensor]]) -> None:
        for name, tensor in named:
            self._parameters[name].copy_(tensor)

    def commit(self, version: int) -> tuple[str, str]:
        """(digest of the bytes received, nothing more to compare)."""
        return self._digest, ""

    def resume(self) -> None:
        """There is nothing to resume."""

    def probe(self, token_ids: Sequence[int]) -> list[float]:
        """What the publisher expects."""
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

    def publish(self, version: int) -> dict[str, float]:
        """One publication's figures."""
        publication = self._publisher.publish(version, self._layers, PROBE, lambda text: text)
        return publication.metrics

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
