"""Every error this project raises.

    GmpoError
    ├── UsageError                  the person can mend it; exit status 2, nothing was started
    │   ├── ConfigError             a recipe field is wrong (names the field's path)
    │   ├── DataError               a prompt file or data set cannot be read
    │   ├── ModelError              a model path without weights, or one the engine cannot run
    │   └── ClusterError            the pools do not fit the cluster
    ├── LedgerError                 a prompt was moved along an edge its life does not have
    ├── QueueClosed                 the replay queue shut while someone waited
    ├── QueueLost                   the replay queue's process died, and its successor lacks what the driver holds
    ├── StaleAttempt                a claim from a learner group that has been replaced
    ├── LostGroup                   an object of the replay queue is gone
    ├── LearnerError                the learner group failed more often than it may be restarted
    ├── CheckpointError             checkpoints cannot be written, or none can be read
    ├── TrainingDiverged            too many updates in a row were not finite
    ├── NothingToLearn              too many groups in a row told no response from another
    ├── PoisonedPrompt              processes died under a prompt, several times
    ├── EngineError                 a generation engine failed
    ├── WeightSyncError             a publication failed (names engine, phase, version)
    │   ├── WeightSyncTimeout       a phase passed its deadline
    │   └── WeightSyncMismatch      bytes, checksums or probe log-probs disagree
    ├── VerifierError               the verifier's child process misbehaved
    │   └── VerifiersBroken         most verifications crash: the run ends instead of training on the rest
    ├── MetricError                 a figure was logged that no one declared
    ├── PolicyVersionError          a version directory does not match its manifest
    │   └── UnknownVersion          nobody has a version of this name
    ├── NotResident                 a version is not in memory, and cannot be just now
    └── Interrupted                 the run was ended for another machine to go on with it; exit status 75

All of them survive pickling, so that they cross process borders whole.
"""

from __future__ import annotations

from typing import ClassVar


class GmpoError(Exception):
    """Root of the tree."""

    status: ClassVar[int] = 1
    """Exit status of a command that ends so."""


class UsageError(GmpoError):
    """Raised before anything starts; the command line turns it into one message and exit status 2."""

    status = 2


class Interrupted(GmpoError):
    """A run that ended with a checkpoint and is to be submitted again: for who started it, neither done nor broken."""

    status = 75  # EX_TEMPFAIL: try again


class ConfigError(UsageError):
    """A recipe that does not fit its types or itself."""


class DataError(UsageError):
    """Prompts that cannot be had."""


class ModelError(UsageError):
    """A model directory that cannot be used."""


class ClusterError(UsageError):
    """More resources asked for than the cluster can ever offer."""


class LedgerError(GmpoError):
    """An illegal move in a prompt's life."""


class QueueClosed(GmpoError):
    """The replay queue was closed."""


class QueueLost(GmpoError):
    """The replay queue's process died, and the one in its place knows nothing of what the driver holds."""


class StaleAttempt(GmpoError):
    """A newer learner group has taken over."""


class LostGroup(GmpoError):
    """A group's object cannot be fetched any more; its prompt is issued again."""


class LearnerError(GmpoError):
    """The learner group failed, and was not to be restarted once more."""


class CheckpointError(GmpoError):
    """The learner's state cannot be kept, or cannot be had again."""


class TrainingDiverged(GmpoError):
    """Loss or gradient stopped being finite; starting again would only repeat it."""


class NothingToLearn(GmpoError):
    """Dynamic sampling finds no group whose responses differ in reward."""


class PoisonedPrompt(GmpoError):
    """A prompt that is left out, because what works on it dies."""


class EngineError(GmpoError):
    """A generation engine cannot go on."""


class WeightSyncError(GmpoError):
    """A publication of weights failed.

    `engine` is the engine's index or "all", `phase` one of connect, pause, send, commit, probe, resume.
    """

    def __init__(self, detail: str, *, engine: int | str, phase: str, version: int) -> None:
        super().__init__(f"version {version}, engine {engine}, phase {phase}: {detail}")
        self.detail, self.engine, self.phase, self.version = detail, engine, phase, version

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.detail, self.engine, self.phase, self.version)


def _rebuild(cls: type[WeightSyncError], detail: str, engine: int | str, phase: str, version: int) -> WeightSyncError:
    return cls(detail, engine=engine, phase=phase, version=version)


class WeightSyncTimeout(WeightSyncError):
    """A phase did not end before its deadline."""


class WeightSyncMismatch(WeightSyncError):
    """Sender and receivers do not hold the same policy."""


class VerifierError(GmpoError):
    """A verifier's child broke its protocol."""


class VerifiersBroken(VerifierError):
    """Too large a share of the last verifications crashed; starting children again does not mend it."""


class PolicyVersionError(GmpoError):
    """A policy version that must not be loaded."""


class UnknownVersion(PolicyVersionError):
    """A policy version that there is not."""


class NotResident(GmpoError):
    """A policy version that cannot be loaded just now; it may be worth asking again after so many seconds."""

    def __init__(self, detail: str, *, retry_after_s: float = 5.0) -> None:
        super().__init__(detail)
        self.detail, self.retry_after_s = detail, retry_after_s

    def __reduce__(self) -> tuple[object, ...]:
        return _not_resident, (self.detail, self.retry_after_s)


def _not_resident(detail: str, retry_after_s: float) -> NotResident:
    return NotResident(detail, retry_after_s=retry_after_s)


class MetricError(GmpoError):
    """A metric without a declaration."""
