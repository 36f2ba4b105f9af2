"""What sender and receivers must agree on: the order of parameters, how they are cut into buckets, and the digest of the bytes.

A bucket is a run of whole parameters, cut when the next one would pass `bucket_bytes`; one larger parameter is a bucket alone. Both
sides compute the cut from the same metadata, so nothing about it travels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod

import torch
import xxhash

from actors.weights.groups import BroadcastGroup


@dataclass(frozen=True, slots=True)
class ParamSpec:
    """A parameter on the wire: Hugging Face name, torch dtype name, full shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype itself."""
        dtype = getattr(torch, self.dtype)
        assert isinstance(dtype, torch.dtype)
        return dtype

    @property
    def size_bytes(self) -> int:
        """Bytes on the wire."""
        return prod(self.shape) * self.torch_dtype.itemsize


def buckets(specs: Sequence[ParamSpec], bucket_bytes: int) -> Iterator[tuple[ParamSpec, ...]]:
    """Cut the parameters into buckets, in order."""
    bucket: list[ParamSpec] = []
    size = 0
    for spec in specs:
        if bucket and size + spec.size_bytes > bucket_bytes:
            yield tuple(bucket)
            bucket, size = [], 0
        bucket.append(spec)
        size += spec.size_bytes
    if bucket:
        yield tuple(bucket)


def staging_buffer(specs: Sequence[ParamSpec], bucket_bytes: int, device: torch.device) -> torch.Tensor:
    """Room for the largest bucket: [bytes] uint8."""
    largest = max((sum(spec.size_bytes for spec in bucket) for bucket in buckets(specs, bucket_bytes)), default=0)
    return torch.empty(largest, dtype=torch.uint8, device=device)


def pack(tensors: Sequence[torch.Tensor], device: torch.device, into: torch.Tensor | None = None) -> torch.Tensor:
    """Lay tensors end to end as bytes: [bytes] uint8 on `device`; at the start of the buffer `into`, where one is given.

    Memory that was never touched costs several times the copy, so who packs often packs into the same.
    """
    pieces = [tensor.detach().contiguous().reshape(-1).view(torch.uint8).to(device) for tensor in tensors]
    if into is None:
        return torch.cat(pieces)
    return torch.cat(pieces, out=into[: sum(piece.numel() for piece in pieces)])


def unpack(buffer: torch.Tensor, bucket: Sequence[ParamSpec]) -> list[tuple[str, torch.Tensor]]:
    """The tensors of a bucket, as copies aligned for their dtype."""
    named, start = [], 0
    for spec in bucket:
        piece = buffer[start : start + spec.size_bytes]
        named.append((spec.name, piece.clone().view(spec.torch_dtype).view(spec.shape)))
        start += spec.size_bytes
    return named


Load = Callable[[Sequence[tuple[str, torch.Tensor]]], None]
"""Takes the named tensors of a bucket, which are its own."""


class Digest:
    """A running digest of all bytes of one publication; equal on both sides or the publication is refused.

    It guards against faults, not against forgers: xxh3 on a CPU; on a GPU a position-weighted sum modulo 2^64, so that no byte
    need leave the device.
    """

    def __init__(self) -> None:
        self._bytes = xxhash.xxh3_128()
        self._sum = 0

    def update(self, buffer: torch.Tensor) -> None:
        """Add a bucket's bytes: [bytes] uint8."""
        if buffer.device.type == "cpu":
            self._bytes.update(buffer.numpy().data)
            return
        weights = torch.arange(1, buffer.numel() + 1, device=buffer.device, dtype=torch.int64)
        self._sum = (self._sum * 1_000_003 + int((buffer.to(torch.int64) * weights).sum())) % 2**64

    def hexdigest(self) -> str:
        """The digest so far."""
        return f"{self._bytes.hexdigest()}{self._sum:016x}"


def receive(group: BroadcastGroup, specs: Sequence[ParamSpec], bucket_bytes: int, load: Load) -> str:
    """Take every bucket of one publication into `load`. Returns the digest of the bytes received."""
    digest, staging = Digest(), staging_buffer(specs, bucket_bytes, group.device)
    for bucket in buckets(specs, bucket_bytes):
        buffer = staging[: sum(spec.size_bytes for spec in bucket)]
        group.broadcast(buffer)
        digest.update(buffer)
        load(unpack(buffer, bucket))
    return digest.hexdigest()
