"""Pools and a learner group that stay up from one run to the next."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import ray

from actors.errors import LearnerError
from actors.learner.agenda import Board, ManyRuns
from actors.learner.loop import LoopSpec
from services import cluster
from services.config import Recipe, resolved
from services.training.checks import tasks_of
from services.training.drive import Job
from services.training.learner_group import run_group
from services.training.pools import Pools

GROUP_END_S = 60.0
"""Time the learner group has to leave."""


class Crew:
    """Pools and a learner group that serve one run after another, as long as these are alike in all that actors are made of."""

    def __init__(self, job: Job) -> None:
        recipe, gpu = job.recipe, cluster.has_gpu(job.recipe.cluster)
        self._made_of = _made_of(recipe)
        self.begun = 0  # runs so far
        self.pools = Pools(recipe, job.model, gpu=gpu, tasks=tasks_of(job.stream))
        self._board: Any = ray.remote(Board).options(num_cpus=0, max_concurrency=1_000).remote()
        storage = str(job.run.path.parent)
        self._group = asyncio.create_task(run_group(recipe, ManyRuns(self._board), storage, gpu=gpu))

    def fits(self, recipe: Recipe) -> bool:
        """Whether a run of this recipe can be driven by this crew."""
        return _made_of(recipe) == self._made_of

    def begin(self, spec: LoopSpec) -> asyncio.Task[None]:
        """See `drive`."""
        self.begun += 1
        return asyncio.create_task(self._work(spec))

    async def _work(self, spec: LoopSpec) -> None:
        number = await self._board.begin.remote(spec)
        leaving = asyncio.ensure_future(self._board.left.remote(number))
        await asyncio.wait({leaving, self._group}, return_when=asyncio.FIRST_COMPLETED)
        if not leaving.done():
            leaving.cancel()
            self._group.result()
            raise LearnerError("the learner group has left a study that is not over")
        leaving.result()

    async def close(self) -> None:
        """End every actor. The board ends with the last who knows it: a group that comes back late must find nothing to do."""
        with contextlib.suppress(ray.exceptions.RayError):
            await self._board.finish.remote()
        await asyncio.wait({self._group}, timeout=GROUP_END_S)
        await self.pools.close()


def _made_of(recipe: Recipe) -> dict[str, Any]:
    """The settings that engines, verifiers, scorers and learner processes are made with; a run may differ in all others."""
    tree = resolved(recipe)
    whole = ("policy", "prompts", "generation", "reward", "reference", "weights", "health", "cluster")
    learner = ("ranks", "backend", "lora", "kl", "threads", "cpus", "gpus", "resources", "max_restarts", "compile")
    return {name: tree[name] for name in whole} | {name: tree["learner"][name] for name in learner}
