"""What passes between the pools: one frozen dataclass per stage of a prompt's way.

    Prompt -> Rollout -> RolloutGroup -> TrainBatch -> StepResult

Arrays are numpy, so that Ray maps them without a copy; torch appears only in the learner and the reference pool.
Shapes: P prompt tokens, T response tokens, G responses of one prompt, N rows of one step on one rank, U updates of one step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int32]
FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

Answer = str | float | int | list[Any]
"""A gold answer as data sets hold it; of a list any element counts as right."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """The n-th question of a run, rendered and tokenized; `ordinal` is its name for life."""

    ordinal: int
    task: str  # names the verifier: "math", "gsm8k", "digits/reverse", ...
    token_ids: IntArray  # [P]
    answer: Answer
    text: str  # the rendered prompt, for people
    row: str  # where it came from: "file.jsonl#17"
    columns: Mapping[str, Any] = field(default_factory=dict)  # the row's other columns, for user-written rewards


class Span(NamedTuple):
    """Tokens [start, end) of a response were sampled by policy `version`."""

    version: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Rollout:
    """One sampled response. `mask` is False on tokens the policy did not sample (a tool's words between turns)."""

    token_ids: IntArray  # [T]
    logprobs: FloatArray  # [T] log-probs of the distribution that was sampled from (after temperature and top-p)
    mask: BoolArray  # [T]
    spans: tuple[Span, ...]
    finish_reason: str  # "stop", "length" or "abort"
    text: str


class Outcome(StrEnum):
    """How a verification ended. Only the first three say something about the response; the rest are faults of ours."""

    RIGHT = "right"
    WRONG = "wrong"
    UNPARSEABLE = "unparseable"
    TIMEOUT = "timeout"
    CRASH = "crash"
    OOM = "oom"


GRADED = frozenset({Outcome.RIGHT, Outcome.WRONG, Outcome.UNPARSEABLE})


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the verifier says of one response. `score` is the reward; it counts only if the response was graded."""

    score: float
    outcome: Outcome
    extracted: str | None = None  # the answer found in the response
    parts: Mapping[str, float] = field(default_factory=dict)  # the unweighted terms of a weighted sum

    @property
    def graded(self) -> bool:
        """False where a fault hid the truth: the response is then masked, never scored as zero."""
        return self.outcome in GRADED


@dataclass(frozen=True, slots=True)
class RolloutGroup:
    """The G responses to one prompt, filled in as it travels: verdicts by the reward pool, ref_logprobs by the reference pool."""

    prompt: Prompt
    rollouts: tuple[Rollout, ...]  # [G]
    verdicts: tuple[Verdict, ...] | None = None  # [G]
    ref_logprobs: tuple[FloatArray, ...] | None = None  # G x [T] under the frozen starting policy

    @property
    def versions(self) -> tuple[int, int]:
        """(oldest, newest) policy version among the tokens of the group."""
        spans = [span.version for rollout in self.rollouts for span in rollout.spans]
        return (min(spans), max(spans)) if spans else (0, 0)


@dataclass(frozen=True, slots=True)
class GroupMeta:
    """All that the driver and the queue see of a group: enough to freeze a step, and no payload."""

    ordinal: int
    versions: tuple[int, int]  # (oldest, newest)
    lengths: tuple[int, ...]  # [G] response tokens
    scores: tuple[float, ...] = ()  # [G], empty before verification
    outcomes: tuple[Outcome, ...] = ()  # [G], empty before verification
    parts: Mapping[str, float] = field(default_factory=dict)  # mean of each reward part over graded responses
    truncated: int = 0  # responses that ended at the token limit
    prompt_length: int = 0  # tokens
    shaping: tuple[float, ...] = ()  # [G] what of each score is for the response's length alone, where length is paid for
    kl: tuple[float, ...] = ()  # [G] estimate of KL(behaviour || reference) summed over the response, where the reward pays for it
    seconds: float = 0.0  # time the last stage took


Held = tuple[GroupMeta, Sequence[Any]]
"""A group's metadata and its reference, wrapped in a sequence: Ray hands over the reference, not the object."""


@dataclass(frozen=True, slots=True)
class BatchTotals:
    """Counts over the whole update: all ranks, all micro-batches. Losses divide by these and nothing else."""

    sequences: int
    tokens: int


class RowPlan(NamedTuple):
    """Where one row of a step comes from, and what is to be done with it."""

    group: int  # index into Work.ordinals
    sample: int  # index into the group's rollouts
    update: int  # which optimizer step of this training step
    advantage: float


@dataclass(frozen=True, slots=True)
class Work:
    """One rank's share of a step, frozen at the step's first claim."""

    step: int
    ordinals: tuple[int, ...]  # groups this rank reads
    refs: tuple[Any, ...]  # their ObjectRefs, one each
    rows: tuple[RowPlan, ...]
    totals: tuple[BatchTotals, ...]  # [U]
    metrics: Mapping[str, float]  # figures of the whole step that are known from metadata


@dataclass(frozen=True, slots=True)
class Resync:
    """The engines changed: join their group and publish the current version again before any work."""

    epoch: int  # grows with every change, names the group
    engines: tuple[Any, ...]  # actor handles


@dataclass(frozen=True, slots=True)
class Stop:
    """No more work: save and leave. `reason` is for people."""

    reason: str


Assignment = Work | Resync | Stop


@dataclass(frozen=True, slots=True)
class Row:
    """One response ready to be learned from."""

    token_ids: IntArray  # [P + T]
    prompt_length: int  # P
    mask: BoolArray  # [T]
    logprobs: FloatArray  # [T] behaviour
    ref_logprobs: FloatArray | None  # [T]
    advantage: float
    update: int
    current: BoolArray  # [T] sampled by the version that is about to be trained


@dataclass(frozen=True, slots=True)
class TrainBatch:
    """The rows of one step on one rank; the learner cuts it into updates, and updates into micro-batches."""

    step: int
    rows: tuple[Row, ...]  # [N]
    totals: tuple[BatchTotals, ...]  # [U]

    def update_rows(self, update: int) -> list[Row]:
        """The rows of one optimizer step."""
        return [row for row in self.rows if row.update == update]


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step brought: the version it produced and its figures, keyed `area/thing`."""

    version: int
    metrics: Mapping[str, float]
