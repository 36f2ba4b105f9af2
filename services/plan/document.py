"""A plan in plain values, for JSON: sizes in bytes, keys that depend on no number."""

from __future__ import annotations

from typing import Any

from services.plan.answer import Answer
from services.plan.disk import Disk
from services.plan.parts import Parts
from services.plan.pools import Pool, SharedGpu


def document(answer: Answer) -> dict[str, Any]:
    """The whole of it."""
    found = answer.layout.estimate
    return {
        "model": answer.name,
        "note": answer.note,
        "parameters": found.shape.parameters,
        "machine": {"gpus": found.machine.gpus, "gpu_bytes": found.machine.gpu_bytes, "nodes": found.machine.nodes},
        "fits": found.fits,
        "gpus": found.gpus,
        "pools": [_pool(pool) for pool in found.pools],
        "shared_gpus": [_shared(gpu) for gpu in found.shared],
        "host_bytes": found.host,
        "object_store_bytes": found.object_store,
        "disk": _disk(found.disk),
        "overrides": answer.layout.overrides,
        "remedies": list(answer.remedies),
    }


def _pool(pool: Pool) -> dict[str, Any]:
    return {
        "name": pool.name,
        "members": pool.members,
        "gpus": pool.all_gpus,
        "fits": pool.fits,
        "gpu_bytes": pool.device and _parts(pool.device.parts),
        "gpu_limit_bytes": pool.limit or None,
        "pass_tokens": (pool.device and pool.device.tokens) or None,
        "responses": pool.room and pool.room.responses,
        "host_bytes": pool.all_host,
        "host_member_bytes": _parts(pool.host),
        "host_once_bytes": _parts(pool.once),
    }


def _shared(gpu: SharedGpu) -> dict[str, Any]:
    names = [pool.name for pool in gpu.pools]
    return {"pools": names, "fits": gpu.fits, "gpu_bytes": gpu.size, "gpu_limit_bytes": gpu.limit}


def _disk(disk: Disk) -> dict[str, Any]:
    return {
        "checkpoint_bytes": disk.checkpoint,
        "checkpoints": disk.checkpoints,
        "version_bytes": disk.version,
        "versions": disk.versions,
        "rollouts_bytes": disk.rollouts,
    }


def _parts(parts: Parts) -> dict[str, float]:
    return {part.key: size for part, size in parts.items()}
