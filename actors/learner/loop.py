"""The learner group's loop, as Ray Train runs it on every rank:

    assignment = queue.claim(...)            what all ranks do next
    Resync -> publisher.connect, publish     the engines changed
    Work   -> learner.train, publish, ack    one step
    Stop   -> checkpoint, leave

Ranks fetch their own shares: a reference that travelled through torch.distributed would lose its owner.
"""

from __future__ import annotations

import contextlib
import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.train
import torch
import torch.distributed as dist
from ray.train.torch import get_device

from actors.errors import LostGroup, QueueClosed
from actors.learner import backends, checkpoint
from actors.learner.batching import assemble
from actors.learner.config import LearnerConfig
from actors.learner.learner import Learner, LearnerSpec
from actors.modeling.loading import load_model
from actors.modeling.scoring import rectangle
from actors.types import Assignment, Resync, StepResult, Stop, Work
from actors.weights.config import WeightsConfig
from actors.weights.publisher import Publisher
from actors.weights.version import committed_steps, prune, write_version

FETCH_TIMEOUT_S = 120.0
CLAIM_POLL_S = 60.0


@dataclass(frozen=True, slots=True)
class LoopSpec:
    """What every rank is given."""

    queue: Any  # handle of the ReplayQueue actor
    config: LearnerConfig
    weights: WeightsConfig
    transport: str  # "gloo" or "nccl"
    workers: int  # vLLM workers of one engine
    model: str  # directory of the starting policy
    dtype: str
    temperature: float
    steps: int
    seed: int
    run: str
    checkpoints: str  # path or URL under which `step-N` are
    policies: Path  # where versions are written
    export_every: int  # steps between two versions
    keep_policies: int  # newest versions kept


def learn(config: dict[str, Any]) -> None:
    """Ray Train's entry point; `config["spec"]` is a LoopSpec."""
    spec: LoopSpec = config["spec"]
    torch.set_num_threads(spec.config.threads)
    context = ray.train.get_context()
    rank, ranks = context.get_world_rank(), context.get_world_size()
    # A closed queue means that the driver gave up; it says why itself.
    with contextlib.suppress(QueueClosed), contextlib.closing(Loop(spec, rank=rank, ranks=ranks)) as loop:
        loop.run()


class Loop:
    """One rank's state between assignments."""

    def __init__(self, spec: LoopSpec, *, rank: int, ranks: int) -> None:
        self._spec, self._rank, self._ranks = spec, rank, ranks
        _seed_everything(spec.seed + rank)
        device = get_device() if torch.cuda.is_available() else torch.device("cpu")
        model = load_model(spec.model)
        self._model_config = model.config
        self._probe = _probe_tokens(model.config.vocab_size)
        backend = backends.build(model, spec.config.backend, spec.config.optimizer, dtype=spec.dtype, device=device)
        learner_spec = LearnerSpec(spec.config, spec.temperature, spec.steps * spec.config.updates_per_step)
        self._learner = Learner(backend, learner_spec)
        tolerance = spec.weights.probe_tolerance * (100 if spec.dtype == "bfloat16" else 1)
        self._publisher = Publisher(spec.weights, spec.transport, rank=rank, tolerance=tolerance)
        self._attempt: int
        self._step: int
        self._attempt, self._step = self._everywhere(lambda: ray.get(spec.queue.begin.remote()))
        self._restore()
        self._saved = self._step

    def run(self) -> None:
        """Follow assignments until Stop."""
        turn = 0
        while True:
            assignment = self._claim(turn)
            turn += 1
            match assignment:
                case Work():
                    self._work(assignment)
                case Resync():
                    if self._export_due:  # version 0, or one that a crash kept from being written
                        self._export()
                    self._publisher.connect(assignment.engines, self._spec.workers, self._step)
                    self._publish()
                    self._tell_queue("confirm", assignment.epoch, self._step)
                case Stop():
                    self._save()
                    return

    def close(self) -> None:
        """Leave the weight group."""
        self._publisher.close()

    def _claim(self, turn: int) -> Assignment:
        while True:
            call = self._spec.queue.claim.remote(turn, self._step + 1, self._rank, self._ranks, self._attempt)
            done, _ = ray.wait([call], timeout=CLAIM_POLL_S)
            if done:
                assignment: Assignment = ray.get(call)
                return assignment

    def _work(self, work: Work) -> None:
        batch = assemble(work, self._fetch(work))
        result = self._learner.train(batch)
        self._step = work.step
        metrics = {**result.metrics, **self._publish()}
        self._tell_queue("ack", StepResult(self._step, metrics))
        if self._export_due or self._step % self._spec.config.checkpoint_every == 0:
            self._save()
        if self._export_due:
            self._export()

    def _fetch(self, work: Work) -> Sequence[Any]:
        """This rank's groups; LostGroup on every rank if one of them cannot have its own."""
        lost = ""
        groups: Sequence[Any] = ()
        try:
            groups = ray.get(list(work.refs), timeout=FETCH_TIMEOUT_S)
        except (ray.exceptions.ObjectLostError, ray.exceptions.GetTimeoutError) as error:
            lost = f"step {work.step}, rank {self._rank}: {error}"
        losses: list[str] = [""] * self._ranks
        dist.all_gather_object(losses, lost)
        if any(losses):
            raise LostGroup("; ".join(loss for loss in losses if loss))
        return groups

    def _publish(self) -> dict[str, float]:
        return self._publisher.publish(self._step, self._learner.backend, (self._probe, self._probe_logprobs()), self._synchronize)

    @torch.no_grad()
    def _probe_logprobs(self) -> list[float]:
        batch = rectangle([np.asarray(self._probe, dtype=np.int32)], [1], self._learner.backend.device)
        logprobs: list[float] = self._learner.backend.score(batch, 1.0).logprobs[0].tolist()
        return logprobs

    @property
    def _export_due(self) -> bool:
        return self._step % self._spec.export_every == 0 or self._step == self._spec.steps

    def _export(self) -> None:
        """Write the present version for serving; all ranks gather, rank 0 writes.

        Only a step that a checkpoint covers (or step 0) is exported: trained again after a crash it might come out differently, and
        a version's name is never given to other weights.
        """
        backend = self._learner.backend
        state = {}  # name -> whole tensor
        for spec, tensor in zip(backend.specs(), backend.tensors(), strict=True):
            if self._rank == 0:
                state[spec.name] = tensor.cpu().clone()  # where the ranks do not divide a dimension it is a view of padded storage
        if self._rank == 0:
            write_version(
                self._spec.policies / f"step-{self._step}",
                state_dict=state,
                model_config=self._model_config,
                tokenizer_dir=Path(self._spec.model),
                step=self._step,
                parent=max((step for step in committed_steps(self._spec.policies) if step < self._step), default=None),
                run=self._spec.run,
            )
            prune(self._spec.policies, keep_last=self._spec.keep_policies, keep_every=None, protected=(0,))

    def _save(self) -> None:
        """Checkpoint the present step, unless it has been. All ranks together."""
        if self._saved == self._step:
            return
        snapshot = self._tell_queue("snapshot")
        with tempfile.TemporaryDirectory() as directory:
            checkpoint.write(Path(directory), self._learner, step=self._step, rank=self._rank, ledger=snapshot)
            ray.train.report(
                {"step": self._step},
                checkpoint=ray.train.Checkpoint.from_directory(directory),
                checkpoint_dir_name=f"step-{self._step}",
            )
        self._saved = self._step
        dist.barrier()  # every rank's part has been uploaded
        if self._rank == 0:
            checkpoint.commit(self._spec.checkpoints, self._step)
            checkpoint.prune(self._spec.checkpoints, keep=self._spec.config.keep_checkpoints)
        self._tell_queue("commit", self._step)

    def _restore(self) -> None:
        """Load the checkpoint of the step that the queue stands at: the driver decides where a run goes on, and no one else."""
        if self._step == 0:
            return
        filesystem, path = checkpoint.directory_of(self._spec.checkpoints, self._step)
        with ray.train.Checkpoint(path, filesystem).as_directory() as directory:
            checkpoint.read(Path(directory), self._learner, rank=self._rank)

    def _tell_queue(self, method: str, *arguments: Any) -> Any:
        """One call to the queue for the whole group, in the name of this attempt; what it answers or raises reaches every rank."""
        return self._everywhere(lambda: ray.get(getattr(self._spec.queue, method).remote(*arguments, self._attempt)))

    def _synchronize(self, text: str) -> str:
        return str(self._everywhere(lambda: text))

    def _everywhere(self, ask: Callable[[], Any]) -> Any:
        """Rank 0's answer on every rank; what it raises is raised on every rank, so that none is left waiting."""
        box: list[Any] = [None, None]
        if self._rank == 0:
            try:
                box[0] = ask()
            except ray.exceptions.RayTaskError as error:
                box[1] = error.cause  # of a class that every rank knows
            except Exception as error:
                box[1] = error
        dist.broadcast_object_list(box, src=0)
        if box[1] is not None:
            raise box[1]
        return box[0]


def _probe_tokens(vocabulary: int, length: int = 24) -> list[int]:
    """A fixed sequence spread over the vocabulary."""
    return [(37 * index + 11) % min(vocabulary, 32_000) for index in range(length)]


def _seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
