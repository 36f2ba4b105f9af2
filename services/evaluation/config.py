"""What a suite asks, and how versions are evaluated while a run trains."""

from __future__ import annotations

import os
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from actors.prompts.config import Columns, FileSource, HubSource, ReasoningGymSource, TemplateName
from actors.reward.config import RewardConfig
from actors.section import Section

SUITE_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"


class HeldOutSource(Section):
    """The problems that the run keeps for evaluation, by `prompts.held_out` of its recipe."""

    type: Literal["held_out"] = "held_out"


SetSource = Annotated[FileSource | HubSource | ReasoningGymSource | HeldOutSource, Field(discriminator="type")]


class SetConfig(Section):
    """One set of problems."""

    source: SetSource
    """Where they are. A relative path is looked up in the folder of evaluation data."""
    columns: Columns = Columns()
    """Column names, where they are not the usual ones."""
    task: str | None = Field(None, min_length=1)
    """The verifier of rows that do not name theirs: math, gsm8k, ..."""


class SuiteConfig(Section):
    """Sets of problems, and how they are put to a policy. What a suite leaves open is as in the run's own recipe."""

    name: str = Field(pattern=SUITE_NAME)
    """Names its results: `<run>/evaluations/<name>/` and the metric `<name>/pass@1`."""
    sets: dict[Annotated[str, Field(pattern=SUITE_NAME)], SetConfig] = Field(min_length=1)
    """By name. Where there are several, the suite's figure is the mean of theirs, each counting the same."""
    template: TemplateName | None = None
    """How a question becomes a prompt; null: as the run does it, its system message included."""
    samples: int = Field(1, gt=0)
    """Answers to each problem."""
    pass_at: tuple[Annotated[int, Field(gt=0)], ...] = (1,)
    """Each k for which pass@k is estimated; 1 always is."""
    temperature: float = Field(0.0, ge=0)
    """0 takes the likeliest token each time."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Nucleus of the sampling distribution."""
    top_k: int = Field(0, ge=0)
    """Keep the k likeliest tokens; 0 keeps all."""
    max_tokens: int | None = Field(None, gt=0)
    """Longest answer, in tokens; null: the run's generation.max_tokens. Less where prompt and answer would not fit the model."""
    seed: int = Field(0, ge=0)
    """Seed of sampled answers."""
    limit: int | None = Field(None, gt=0)
    """Only the first problems of each set."""
    reward: RewardConfig | None = None
    """How answers are graded: right is what the first part finds right. Null: as in the run."""

    @model_validator(mode="after")
    def _fits_itself(self) -> Self:
        if self.samples > 1 and self.temperature == 0:
            raise ValueError(f"samples: {self.samples} answers at temperature 0 are {self.samples} times the same one")
        if max(self.pass_at, default=1) > self.samples:
            raise ValueError(f"pass_at: pass@{max(self.pass_at)} cannot be estimated from {self.samples} answers a problem")
        return self

    @property
    def ks(self) -> tuple[int, ...]:
        """Each k of pass@k, in order; 1 is among them."""
        return tuple(sorted({1, *self.pass_at}))


class LiveEvaluationConfig(Section):
    """Versions put to a suite through the endpoint, as they come."""

    every: int = Field(0, ge=0)
    """Evaluate the versions whose step is a multiple of this, and the last one; 0: none."""
    suite: str = "held_out"
    """A suite by name, reasoning_gym/<task>, a file of problems, or a YAML file that describes a suite."""
    data: str = Field(default_factory=lambda: os.environ.get("GMPO_EVAL_DATA", "."))
    """Folder in which a suite's relative paths are looked up. The environment variable GMPO_EVAL_DATA sets the default."""
    concurrency: int = Field(8, gt=0)
    """Problems under way at once; they share the endpoint with its other users."""
    poll_s: float = Field(5.0, gt=0)
    """Seconds between two looks at which versions there are."""
