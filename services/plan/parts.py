"""What a process's memory is made of: named parts, and those of them that are there at the same time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

MIB, GIB = 2**20, 2**30
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Of one number, by type."""


class Part(Enum):
    """What bytes are for, in the words that a person reads; a part's name in small letters is its key in JSON."""

    WEIGHTS = "weights"
    PASSES = "passes"
    CONTEXT = "context and communication"
    GRAPHS = "graphs"
    KEYS_AND_VALUES = "keys and values"
    RECEIVED_WEIGHTS = "weights being received"
    ACTIVATIONS = "activations"
    RECOMPUTED_ACTIVATIONS = "activations, recomputed"
    LOGPROBS = "log-probs in blocks"
    MASTER_WEIGHTS = "master weights"
    MOMENTS = "moments"
    COMPUTING_WEIGHTS = "weights that compute"
    GATHERED_WEIGHTS = "gathered weights"
    GRADIENTS = "gradients"
    WHOLE_GRADIENTS = "gradients, whole until the last micro-batch"
    NEW_GRADIENTS = "gradients of one micro-batch"
    REDUCED_GRADIENTS = "gradients being reduced"
    SENT_WEIGHTS = "tensor and bucket being sent"
    WHOLE_MODEL = "whole model, before it is divided"
    OFFLOADED = "offloaded from the GPU"
    CHECKPOINT_COPY = "copy that the checkpoint is written from"
    MODEL_READ = "whole model, as it is read"
    EXPORT = "policy that is written for serving"
    PROCESS = "process"
    ENGINE_PROCESSES = "engine's processes"
    CUDA = "CUDA's libraries and pinned buffers"
    VERIFIERS = "verifiers' children"
    RECORDS = "queue and recorder"
    RAY = "processes of Ray"

    @property
    def key(self) -> str:
        """In JSON."""
        return self.name.lower()


Parts = Mapping[Part, float]
"""Bytes by what they are for; all of them at the same time."""


def size(parts: Parts) -> float:
    """Bytes of all of them."""
    return sum(parts.values())


@dataclass(frozen=True, slots=True)
class Peak:
    """The moment at which a process needs most."""

    when: str
    parts: Parts
    tokens: int = 0  # of the largest pass at that moment; 0 where the memory does not depend on it

    @property
    def size(self) -> float:
        """Bytes."""
        return size(self.parts)


def highest(moments: Iterable[Peak]) -> Peak:
    """The moment that needs most."""
    return max(moments, key=lambda moment: moment.size)
