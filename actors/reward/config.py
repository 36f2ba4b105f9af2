"""The reward pool's section of the recipe: which parts make up the reward, and what one verification may cost."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from actors.resources import CustomResources
from actors.section import Section


class VerifierPart(Section):
    """A built-in verifier."""

    type: Literal["verifier"] = "verifier"
    name: str | None = None
    """Key of this part in metrics; default: its `task`, or "verifier"."""
    task: str | None = None
    """Verifier to use for every prompt, e.g. "format/boxed"; default: the one each prompt's own task names."""
    weight: float = 1.0
    """Factor of this part's score in the reward."""

    @property
    def label(self) -> str:
        """The part's key in metrics."""
        return self.name or self.task or "verifier"


class FunctionPart(Section):
    """A function of the user's, imported inside the verifier children."""

    type: Literal["function"]
    name: str | None = None
    """Key of this part in metrics; default: the function's name."""
    path: str = Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$")
    """Where the function is: "package.module:function"."""
    style: Literal["gmpo", "trl", "verl"] = "gmpo"
    """Its signature: gmpo `f(task, response, answer)`, trl `f(prompts, completions, **columns)`, verl
    `compute_score(data_source, solution_str, ground_truth, extra_info)`. It is always called with one response at a time."""
    weight: float = 1.0
    """Factor of this part's score in the reward."""

    @property
    def label(self) -> str:
        """The part's key in metrics."""
        return self.name or self.path.partition(":")[2]


RewardPart = Annotated[VerifierPart | FunctionPart, Field(discriminator="type")]


class OverlongConfig(Section):
    """Soft punishment of responses that come near the token limit (DAPO, arXiv 2503.14476, eq. 13).

    Nothing up to limit - buffer tokens; from there the reward falls evenly, by `penalty` at limit; beyond, no further.
    """

    limit: int = Field(gt=0)
    """Tokens at which the whole penalty is due; at most generation.max_tokens."""
    buffer: int = Field(gt=0)
    """Tokens below limit over which the penalty grows from 0."""
    penalty: float = Field(1.0, gt=0)
    """Greatest loss of reward."""

    @model_validator(mode="after")
    def _consistent(self) -> OverlongConfig:
        if self.buffer > self.limit:
            raise ValueError(f"buffer: {self.buffer} tokens do not fit below limit ({self.limit})")
        return self


class CodeConfig(Section):
    """How the programs of code/python run. What they may take of CPU and memory are the limits of any verification."""

    isolation: Literal["bubblewrap", "rlimits_only"] = "bubblewrap"
    """bubblewrap: no network, environment, files or other processes in sight; where that does not work, the run is refused. rlimits_only:
    limits, and no second process or thread, but the files and the network of whoever runs this: for code you trust, and not as root."""
    fraction: bool = False
    """Score the share of tests that pass; by default 1 if all do, else 0."""
    processes: int = Field(default=8, ge=1)
    """Processes and threads a program may have at once under bubblewrap, each with `memory_bytes` of its own."""
    output_bytes: int = Field(default=1 << 22, ge=1 << 10)
    """Bytes a program may print."""


class RewardConfig(Section):
    """How responses are turned into rewards. The reward is the weighted sum of the parts; right or wrong is what the first part says."""

    parts: tuple[RewardPart, ...] = Field(default=(VerifierPart(),), min_length=1)
    """Terms of the reward, summed with their weights."""
    overlong: OverlongConfig | None = None
    """Punish responses that come near the token limit; reported as the part "overlong". By default none."""
    actors: int = Field(default=1, ge=1)
    """Reward actors in the pool."""
    max_actors: int | None = Field(default=None, ge=1)
    """Actors the pool may grow to while verification is behind, and shrinks from when it is not; by default it stays as it is."""
    cpus: float = Field(default=0.1, ge=0)
    """Ray CPU share of one reward actor."""
    resources: CustomResources = Field(default_factory=dict)
    """Custom Ray resources of one reward actor; it goes only to a node that offers them."""
    workers: int = Field(default=2, ge=1)
    """Verifier children per actor; each grades one response at a time and keeps about 100 MB."""
    cpu_limit_s: float = Field(default=5.0, gt=0)
    """CPU seconds one response may take; beyond, its child is killed and the response masked. A program of code/python that takes them over
    all its tests is wrong."""
    wall_limit_s: float = Field(default=30.0, gt=0)
    """Backstop in seconds of wall-clock time, for code that waits; well above `cpu_limit_s`, so that a loaded machine masks nothing."""
    memory_bytes: int = Field(default=1 << 30, ge=1 << 26)
    """Address space in bytes one child may map beyond what it holds once warm."""
    max_response_chars: int = Field(default=200_000, ge=1)
    """Characters of a response that verifiers see. Of a longer one it is the last ones: answers stand at the end."""
    max_fault_share: float = Field(default=0.5, gt=0, le=1)
    """Largest share of crashes among the last 200 verifications of an actor (once there are 50); beyond, the run ends. 1: never."""
    code: CodeConfig = CodeConfig()
    """Running the programs of code/python."""
    environment: tuple[str, ...] = ()
    """Names of environment variables the children may see besides the paths and the locale."""

    @property
    def by_task(self) -> bool:
        """Whether a prompt's own task picks a verifier, so that every task of the run must be a known one."""
        return any(isinstance(part, VerifierPart) and part.task is None for part in self.parts)

    @model_validator(mode="after")
    def _consistent(self) -> RewardConfig:
        labels = [part.label for part in self.parts] + ["overlong"] * (self.overlong is not None)
        if twice := {label for label in labels if labels.count(label) > 1}:
            raise ValueError(f"parts: two parts are called {sorted(twice)[0]!r}; give them different names")
        if self.max_actors is not None and self.max_actors < self.actors:
            raise ValueError(f"max_actors: {self.max_actors} is less than actors ({self.actors})")
        if self.wall_limit_s < self.cpu_limit_s:
            raise ValueError(f"wall_limit_s: {self.wall_limit_s} is below cpu_limit_s ({self.cpu_limit_s})")
        return self
