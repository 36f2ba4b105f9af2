"""What one checkpoint holds: every rank's shards, random states and counters, the ledger as it stood, and the groups that were ready.

.metadata, __R_N.distcp    torch DCP: parameters and optimizer state, readable on any number of ranks
rank-R.pt                  random states of rank R
state.json                 step, the learner's progress
ledger.json                the ledger's snapshot
ready.parquet              the groups that waited for a step, whole; missing where there were none

`checkpoint_store` says where it is, and makes it count.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.distributed.checkpoint import FileSystemWriter
from torch.distributed.checkpoint import save as dcp_save
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

from actors.learner import checkpoint_store as store
from actors.records import write_groups
from actors.types import GroupMeta, RolloutGroup

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

    from actors.learner.learner import Learner

_COPIES = StagingOptions(use_pinned_memory=False, use_shared_memory=False, use_async_staging=False, use_non_blocking_copy=False)
LEDGER, READY, STATE = "ledger.json", "ready.parquet", "state.json"


@dataclass(frozen=True, slots=True)
class Waiting:
    """What a checkpoint holds of the replay queue."""

    ledger: Sequence[Sequence[Any]] = ()
    ready: Callable[[], tuple[Sequence[RolloutGroup], Sequence[GroupMeta]]] = lambda: ((), ())  # asked for when it is written


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One rank's part of a checkpoint, held apart from what training goes on to change."""

    step: int
    rank: int
    shards: Mapping[str, Any]  # for torch DCP
    random: Mapping[str, Any]
    state: Mapping[str, Any]
    waiting: Waiting  # rank 0's counts


def take(learner: Learner, *, step: int, rank: int, waiting: Waiting) -> Snapshot:
    """Copy what a checkpoint of this moment needs; all ranks together."""
    shards = DefaultStager(_COPIES).stage(dict(learner.backend.snapshot()))
    assert isinstance(shards, dict)
    return Snapshot(step, rank, shards, _random_states(), {"step": step, **asdict(learner.progress)}, waiting)


def write(root: str, snapshot: Snapshot, group: ProcessGroup) -> store.Digests:
    """Write this rank's part under `root` and return its files; all ranks together, over `group`. It takes a commit to make it count."""
    rank = snapshot.rank
    if rank == 0:  # first of all, and no rank writes before it has rank 0's plan
        store.uncommit(root, snapshot.step)
    with store.draft(root, snapshot.step) as directory:
        dcp_save(dict(snapshot.shards), storage_writer=FileSystemWriter(directory), process_group=group)
        mine = {path.name for path in directory.glob(f"__{rank}_*.distcp")} | {f"rank-{rank}.pt"}
        torch.save(dict(snapshot.random), directory / f"rank-{rank}.pt")
        if rank == 0:
            (directory / STATE).write_text(json.dumps(snapshot.state))
            (directory / LEDGER).write_text(json.dumps(snapshot.waiting.ledger))
            mine |= {".metadata", STATE, LEDGER}
            groups, metas = snapshot.waiting.ready()
            if groups:
                write_groups(directory / READY, groups, metas)
                mine.add(READY)
        return store.digests(directory, sorted(mine))


def read(root: str, step: int, learner: Learner, *, rank: int) -> None:
    """Restore a learner from a committed checkpoint. A rank that did not exist then keeps its fresh random states."""
    from actors.learner.learner import Progress

    with store.stored_at(root, step).local() as directory:
        learner.backend.load(directory)
        state = json.loads((directory / STATE).read_text())
        learner.progress = Progress(**{name: state[name] for name in Progress.__slots__})
        if (file := directory / f"rank-{rank}.pt").exists():
            _set_random_states(torch.load(file, weights_only=True))


def _random_states() -> dict[str, Any]:
    kind, keys, position, gauss, cached = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        "numpy": [str(kind), torch.from_numpy(np.asarray(keys).astype(np.int64)), position, gauss, cached],
        "python": random.getstate(),
    }


def _set_random_states(states: Mapping[str, Any]) -> None:
    torch.set_rng_state(states["torch"])
    if states["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    random.setstate(states["python"])
