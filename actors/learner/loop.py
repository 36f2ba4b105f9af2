"""The learner group's loop, as Ray Train runs it on every rank:

    assignment = queue.claim(...)            what all ranks do next
    Resync -> publish to these engines       they changed, or the last publication to them failed
    Work   -> learner.train, publish, ack    one step
    Stop   -> checkpoint, leave

A publication that fails is told to the queue, which answers with Resync once there are engines to go on with; the step is acked then.

Ranks fetch their own shares: a reference that travelled through torch.distributed would lose its owner.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.train
import torch
import torch.distributed as dist
from ray.train.torch import get_device

from actors.errors import CheckpointError, QueueClosed, TrainingDiverged, WeightSyncError
from actors.learner import backends, checkpoint
from actors.learner.agenda import Agenda
from actors.learner.batching import assemble
from actors.learner.checkpoint import Waiting
from actors.learner.config import LearnerConfig
from actors.learner.exports import Exporter
from actors.learner.learner import Learner, LearnerSpec
from actors.learner.saver import Saver
from actors.modeling.loading import load_model
from actors.modeling.packing import pack
from actors.types import Assignment, GroupMeta, Held, Resync, RolloutGroup, StepResult, Stop, Work
from actors.weights.config import WeightsConfig
from actors.weights.publisher import Publisher
from actors.weights.version import committed_steps

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
    mirror: str | None  # path or URL where they must be found too
    export_every: int  # steps between two versions
    keep_policies: int  # newest versions kept
    protected: Callable[[], Collection[int]]  # picklable; versions kept beside them


def learn(config: dict[str, Any]) -> None:
    """Ray Train's entry point: one run of `config["agenda"]` after another."""
    agenda: Agenda = config["agenda"]
    context = ray.train.get_context()
    rank, ranks = context.get_world_rank(), context.get_world_size()
    left = 0
    while (number := _of_rank_0(partial(agenda.next, left), rank)) is not None:
        _learn(agenda.spec(number), rank, ranks)
        left = number


def _learn(spec: LoopSpec, rank: int, ranks: int) -> None:
    torch.set_num_threads(spec.config.threads)
    # A closed queue means that the driver gave up; it says why itself.
    with contextlib.suppress(QueueClosed), contextlib.closing(Loop(spec, rank=rank, ranks=ranks)) as loop:
        try:
            loop.run()
        except CheckpointError as error:
            loop.give_up(error)


class Loop:
    """One rank's state between assignments."""

    def __init__(self, spec: LoopSpec, *, rank: int, ranks: int) -> None:
        self._spec, self._rank, self._ranks = spec, rank, ranks
        _seed_everything(spec.seed)  # adapters are drawn alike on every rank
        device = get_device() if torch.cuda.is_available() else torch.device("cpu")
        model = load_model(spec.model)
        self._model_config = model.config
        self._probe = _probe_tokens(model.config.vocab_size)
        backend = backends.build(model, spec.config, dtype=spec.dtype, device=device)
        _seed_everything(spec.seed + rank)
        learner_spec = LearnerSpec(spec.config, spec.temperature, spec.steps * spec.config.updates_per_step)
        self._learner = Learner(backend, learner_spec)
        tolerance = spec.weights.probe_tolerance * (100 if spec.dtype == "bfloat16" else 1)
        self._publisher = Publisher(spec.weights, spec.transport, rank=rank, tolerance=tolerance)
        self._saver = Saver(spec.checkpoints, keep=spec.config.keep_checkpoints, rank=rank, failed=partial(self._tell, "checkpoint_failed"))
        self._exports = Exporter(spec.policies, spec.mirror, keep=spec.keep_policies, protected=spec.protected, tell=self._tell)
        self._epoch = 0  # of the engines in use
        self._unacked: StepResult | None = None  # of a step that is trained, and whose version the engines do not have yet
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
            self._saver.check()
            turn += 1
            match assignment:
                case Work():
                    self._work(assignment)
                case Resync():
                    if not self._everywhere(lambda: self._saver.busy):  # a checkpoint may wait for what waits for this resync
                        self._export_missing()
                    self._epoch = assignment.epoch
                    self._publisher.use(assignment.engines, self._spec.workers)
                    self._publish(self._probe_logprobs())
                case Stop():
                    if self._unacked is None:  # else the run goes on from the step before
                        self._save()
                        self._export_missing()
                        if self._rank == 0:
                            self._exports.finish()
                    if self._saver.failures:
                        raise CheckpointError(f"the run ends after step {self._step}, and its state could not be written")
                    return

    def give_up(self, error: CheckpointError) -> None:
        """End the run by name: another group would find the storage as this one did. The other ranks may not have heard of it yet."""
        if self._rank == 0:
            ray.get(self._spec.queue.fail.remote(error, self._attempt))

    def close(self) -> None:
        """Leave the weight group."""
        self._publisher.close()
        self._saver.close()
        self._exports.close()

    def _claim(self, turn: int) -> Assignment:
        while True:
            call = self._spec.queue.claim.remote(turn, self._step + 1, self._rank, self._ranks, self._attempt)
            done, _ = ray.wait([call], timeout=CLAIM_POLL_S)
            if done:
                assignment: Assignment = ray.get(call)
                return assignment

    def _work(self, work: Work) -> None:
        groups = self._fetch(work)
        if groups is None:
            return
        batch = assemble(work, groups)
        try:
            result = self._learner.train(batch)
            probe = self._probe_logprobs()
            if not np.isfinite(probe).all():  # no update is left that could be skipped for it
                raise TrainingDiverged("the policy's log-probs are not finite after the last update")
        except TrainingDiverged as error:  # on every rank; a restart would go the same way, so the run ends here
            self._tell_queue("fail", TrainingDiverged(f"step {work.step}: {error}"))
            raise QueueClosed("training diverged") from error
        self._step, self._unacked = work.step, result
        self._publish(probe)

    def _publish(self, probe: Sequence[float]) -> None:
        """Send the present version, which gives the probe's tokens these log-probs, to the engines; then the queue hears that they have it,
        or that they do not.
        """
        try:
            publication = self._publisher.publish(self._step, self._learner.backend, (self._probe, probe), self._synchronize)
        except WeightSyncError as error:  # on every rank
            self._tell_queue("unsynced", self._epoch, error)
            return
        if self._unacked is None:
            self._tell_queue("confirm", self._epoch, self._step, publication.digest)
            return
        metrics = {**self._unacked.metrics, **publication.metrics}
        self._tell_queue("ack", StepResult(self._step, metrics), publication.digest)
        self._unacked = None
        if self._export_due or self._step % self._spec.config.checkpoint_every == 0:
            self._save()

    def _fetch(self, work: Work) -> Sequence[Any] | None:
        """This rank's groups; None on every rank if one of them cannot have all of its own, which the queue is told."""
        groups, lost = _get(work)
        losses: list[list[int]] = [[]] * self._ranks
        dist.all_gather_object(losses, lost)
        if gone := sorted({ordinal for loss in losses for ordinal in loss}):
            self._tell_queue("lost", work.step, gone)
            return None
        return groups

    @torch.no_grad()
    def _probe_logprobs(self) -> list[float]:
        batch = pack([np.asarray(self._probe, dtype=np.int32)], [1], self._learner.backend.device)
        logprobs: list[float] = self._learner.backend.score(batch, 1.0).logprobs[0].tolist()
        return logprobs

    @property
    def _export_due(self) -> bool:
        return self._step % self._spec.export_every == 0 or self._step == self._spec.steps

    def _save(self) -> None:
        """Checkpoint the present step, unless it has been, and write its version if one is due. All ranks together.

        Only a step that a checkpoint covers (or step 0) becomes a version: trained again after a crash it might come out
        differently, and a version's name is never given to other weights.
        """
        if self._saved == self._step:
            return
        self._saver.wait()  # one policy at a time is held whole
        step, queue, attempt = self._step, self._spec.queue, self._attempt
        export = self._whole_policy() if self._export_due else lambda: None

        def allowed() -> None:
            ray.get(queue.coverable.remote(step, attempt))

        def committed() -> None:
            ray.get(queue.commit.remote(step, attempt))
            export()

        self._saver.save(self._learner, step, self._waiting(), committed, allowed=allowed)
        self._saved = step

    def _waiting(self) -> Waiting:
        """What the checkpoint holds of the queue. Only rank 0's counts: its references must not travel."""
        taken = Waiting()

        def take() -> None:
            nonlocal taken
            snapshot = ray.get(self._spec.queue.snapshot.remote(self._attempt))
            taken = Waiting(snapshot.ledger, partial(_payloads, snapshot.ready))

        self._everywhere(take)
        return taken

    def _tell(self, event: str, why: str) -> None:
        """From rank 0's threads: a line for the history and the console."""
        ray.get(self._spec.queue.note.remote(event, why))

    def _export_missing(self) -> None:
        """Write the present version if it is due and not there: version 0, or one that a crash kept from being written."""
        self._saver.wait()
        if self._everywhere(lambda: self._export_due and self._step not in committed_steps(self._spec.policies)):
            self._whole_policy()()

    def _whole_policy(self) -> Callable[[], None]:
        """Gather the present policy on rank 0, all ranks together; the answer writes it for serving (nothing on other ranks)."""
        spec, backend, step = self._spec, self._learner.backend, self._step
        state = {}  # name -> whole tensor
        for wired, tensor in zip(backend.specs(), backend.tensors(), strict=True):
            if self._rank == 0:
                state[wired.name] = tensor.cpu().clone()  # where the ranks do not divide a dimension it is a view of padded storage

        def write() -> None:
            if self._rank == 0:
                self._exports.write(step, state, model_config=self._model_config, tokenizer_dir=Path(spec.model), run=spec.run)

        return write

    def _restore(self) -> None:
        """Load the checkpoint of the step that the queue stands at: the driver decides where a run goes on, and no one else."""
        if self._step > 0:
            checkpoint.read(self._spec.checkpoints, self._step, self._learner, rank=self._rank)

    def _tell_queue(self, method: str, *arguments: Any) -> Any:
        """One call to the queue for the whole group, in the name of this attempt; what it answers or raises reaches every rank."""
        return self._everywhere(lambda: ray.get(getattr(self._spec.queue, method).remote(*arguments, self._attempt)))

    def _synchronize(self, text: str) -> str:
        return str(self._everywhere(lambda: text))

    def _everywhere(self, ask: Callable[[], Any]) -> Any:
        return _of_rank_0(ask, self._rank)


def _of_rank_0(ask: Callable[[], Any], rank: int) -> Any:
    """Rank 0's answer on every rank; what it raises is raised on every rank, so that none is left waiting."""
    box: list[Any] = [None, None]
    if rank == 0:
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


def _payloads(held: Sequence[Held]) -> tuple[list[RolloutGroup], list[GroupMeta]]:
    """The groups behind references, and their metadata; those that are gone are left out, and will be asked for again."""
    groups: list[RolloutGroup] = []
    metas: list[GroupMeta] = []
    for meta, ref in held:
        with contextlib.suppress(ray.exceptions.ObjectLostError, ray.exceptions.GetTimeoutError):
            group: RolloutGroup = ray.get(ref[0], timeout=FETCH_TIMEOUT_S)  # type: ignore[assignment]  # of one reference, not a list
            groups.append(group)
            metas.append(meta)
    return groups, metas


def _get(work: Work) -> tuple[list[Any], list[int]]:
    """(a share's groups, the ordinals of those that are gone)."""
    try:
        return ray.get(list(work.refs), timeout=FETCH_TIMEOUT_S), []
    except (ray.exceptions.ObjectLostError, ray.exceptions.GetTimeoutError):
        pass
    groups, lost = [], []
    for ordinal, ref in zip(work.ordinals, work.refs, strict=True):
        try:
            groups.append(ray.get(ref, timeout=1.0))
        except (ray.exceptions.ObjectLostError, ray.exceptions.GetTimeoutError):
            lost.append(ordinal)
    return groups, lost


def _probe_tokens(vocabulary: int, length: int = 24) -> list[int]:
    """A fixed sequence spread over the vocabulary."""
    return [(37 * index + 11) % min(vocabulary, 32_000) for index in range(length)]


def _seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
