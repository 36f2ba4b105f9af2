"""The `prompts` section: where problems come from, how they are read, and how they are put to the model."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, JsonValue, model_validator

from actors.section import Section

TemplateName = Literal["chat", "qwen_math", "r1", "plain"]
DigitTask = Literal["reverse", "sort", "running_sum", "repeated_sum", "addition"]


class FileSource(Section):
    """Rows of JSON arrays, JSON lines or Parquet files; which of them is told from the bytes, not from the name."""

    type: Literal["file"] = "file"
    path: str | Annotated[tuple[str, ...], Field(min_length=1)]
    """One path or a list of them, read in this order: local, or a URL that pyarrow opens (`s3://`, `gs://`)."""

    @property
    def paths(self) -> tuple[str, ...]:
        """The files, however many were given."""
        return (self.path,) if isinstance(self.path, str) else self.path


class HubSource(Section):
    """Rows of a Hugging Face data set at a pinned revision."""

    type: Literal["hub"] = "hub"
    id: str = Field(pattern=r"^[\w.-]+(/[\w.-]+)?(:[^:@]+)?@[^@]+$")
    """`owner/name:config@split`, as in `openai/gsm8k:main@train`; `:config` is left out where the data set has only one."""
    revision: str = Field(pattern=r"^[0-9a-f]{40}$")
    """The commit of the data set's repository, 40 hexadecimal digits: a branch or a tag may move under a running experiment."""

    @property
    def name(self) -> str:
        """The repository: `owner/name`."""
        return self.id.partition("@")[0].partition(":")[0]

    @property
    def config(self) -> str | None:
        """The data set's configuration, or None for its only one."""
        return self.id.partition("@")[0].partition(":")[2] or None

    @property
    def split(self) -> str:
        """The split, or a slice of one: `train[:1000]`."""
        return self.id.partition("@")[2]


class ReasoningGymSource(Section):
    """Problems that reasoning-gym generates; graded by the task's own scorer."""

    type: Literal["reasoning_gym"] = "reasoning_gym"
    task: str = Field(min_length=1)
    """A task of reasoning-gym by name: `chain_sum`, `countdown`, ..."""
    size: int = Field(default=1000, ge=1)
    """How many problems are generated; with `held_out`, those come out of this number."""
    options: dict[str, JsonValue] = Field(default_factory=dict)
    """Settings of the task, such as its difficulty. `seed` is one of them and is 0 unless given: like a file, the problems do not
    change with the run's seed, only their order does."""


class DigitsSource(Section):
    """Endless digit problems, generated from (seed, ordinal). One question in 16, told by its hash, is kept for evaluation."""

    type: Literal["digits"] = "digits"
    task: DigitTask = "reverse"
    """What is to be done with the digits. A response to `repeated_sum` holds its working: n (n + 1) tokens for n digits."""
    digits: int = Field(default=6, ge=2, le=64)
    """Digits in the question; for `addition`, in each of the two numbers."""


FiniteSource = FileSource | HubSource | ReasoningGymSource
Source = Annotated[FiniteSource | DigitsSource, Field(discriminator="type")]


class Columns(Section):
    """Names of columns that differ from the usual ones. A dot reaches into a nested column: `reward_model.ground_truth`."""

    question: str | None = None
    """Holds the question, text or messages; otherwise the first of `prompt`, `question`, `problem` that is not null."""
    answer: str | None = None
    """Holds the gold answer; otherwise the first of `answer`, `solution`, `reward_model.ground_truth` that is not null."""
    task: str | None = None
    """Holds the verifier's name, row by row. Without it `prompts.task` names the verifier, or `data_source` and the answer hint at it."""


class PromptsConfig(Section):
    """What the policy is asked, and in which words."""

    source: Source
    """The problems to train on."""
    template: TemplateName = "chat"
    """How a question becomes a prompt: the tokenizer's own chat template, Qwen2.5-Math's, an R1-Zero conversation, or the bare question."""
    system: str | None = None
    """System message for `chat`, where a row brings none of its own."""
    columns: Columns = Columns()
    """Column names of `source` and `held_out_source`, where they are not the usual ones."""
    task: str | None = Field(default=None, min_length=1)
    """The verifier of rows that do not name theirs by `columns.task`: `math`, `gsm8k`, `exact`, ..."""
    max_tokens: int = Field(default=1024, ge=1)
    """Longest prompt in tokens; longer rows are left out and reported."""
    held_out: int = Field(default=0, ge=0)
    """Problems kept for evaluation and never trained on. Which ones depends on their text, not on the seed."""
    held_out_source: Source | None = None
    """Where the held-out problems come from, if not out of `source`: the first `held_out` usable rows of it."""
    shuffle: bool = True
    """Another order in each epoch, drawn from the seed; otherwise the order of the rows. Digit problems have no order."""

    @model_validator(mode="after")
    def _fits_itself(self) -> Self:
        if self.system is not None and self.template != "chat":
            raise ValueError(f"system: only for template chat; {self.template} has words of its own")
        if self.held_out_source is not None and self.held_out == 0:
            raise ValueError("held_out_source: given, but held_out is 0")
        return self
