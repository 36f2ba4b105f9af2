"""One checkpoint directory: every rank's shards, random states and counters, and the ledger as it stood.

.metadata, __R_N.distcp    torch DCP: parameters and optimizer state, readable on any number of ranks
rank-R.pt                  random states of rank R
state.json                 step, updates done
ledger.json                the ledger's snapshot
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from actors.learner.learner import Learner


def write(directory: Path, learner: Learner, *, step: int, rank: int, ledger: Sequence[Sequence[Any]] | None) -> None:
    """Write this rank's part; rank 0 also writes what is common."""
    learner.backend.save(directory)
    kind, keys, position, gauss, cached = np.random.get_state()
    states = {
        "torch": torch.get_rng_state(),
        "numpy": [str(kind), torch.from_numpy(np.asarray(keys).astype(np.int64)), position, gauss, cached],
        "python": random.getstate(),
    }
    torch.save(states, directory / f"rank-{rank}.pt")
    if rank == 0:
        (directory / "state.json").write_text(json.dumps({"step": step, "updates_done": learner.updates_done}))
        (directory / "ledger.json").write_text(json.dumps(ledger))


def read(directory: Path, learner: Learner, *, rank: int) -> int:
    """Restore a learner; returns the step it stands at. A rank that did not exist then keeps its fresh random states."""
    learner.backend.load(directory)
    state = json.loads((directory / "state.json").read_text())
    learner.updates_done = state["updates_done"]
    if (file := directory / f"rank-{rank}.pt").exists():
        states = torch.load(file, weights_only=True)
        torch.set_rng_state(states["torch"])
        kind, keys, *rest = states["numpy"]
        np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
        random.setstate(states["python"])
    return int(state["step"])


def ledger_of(directory: Path) -> tuple[int, list[list[Any]]]:
    """(step, ledger snapshot) of a checkpoint."""
    step = json.loads((directory / "state.json").read_text())["step"]
    return int(step), json.loads((directory / "ledger.json").read_text())
