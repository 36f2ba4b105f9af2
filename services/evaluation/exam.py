"""A suite made ready for one version: its problems rendered and tokenized as that version's policy reads them."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.errors import ConfigError, DataError
from actors.generation.spec import Sampling
from actors.modeling.loading import load_tokenizer
from actors.prompts.config import FileSource, PromptsConfig
from actors.prompts.prepare import prepare
from actors.prompts.problems import Rejected
from actors.prompts.sources import describe, load
from actors.prompts.stream import open_stream
from actors.prompts.templates import Renderer, Tokenizer
from actors.reward.config import RewardConfig
from actors.reward.verifiers import known
from actors.types import Prompt
from services.config import Recipe
from services.evaluation.config import HeldOutSource, SetConfig, SuiteConfig
from services.evaluation.suites import completed, located

ANY_LENGTH = 1 << 30
"""Tokens of a prompt that is never left out: what the model cannot read counts as not solved, or versions would not compare."""
NOT_IN_ANSWERS = {"name", "sets", "pass_at", "limit"}
"""Fields of a suite that do not change what a problem is answered; which problems there are is digested with the prompts themselves."""


@dataclass(frozen=True, slots=True)
class ProblemSet:
    """The prompts of one set, and the rows that are none."""

    prompts: tuple[Prompt, ...]
    left_out: Rejected


@dataclass(frozen=True, slots=True)
class Exam:
    """All that is asked of a version. `context` is how many tokens its model reads, prompt and answer together."""

    suite: SuiteConfig
    sets: Mapping[str, ProblemSet]
    sampling: Sampling
    reward: RewardConfig
    context: int
    digest: str

    @property
    def tasks(self) -> list[str]:
        """The verifiers that are needed."""
        return sorted({prompt.task for chosen in self.sets.values() for prompt in chosen.prompts})

    @property
    def problems(self) -> int:
        """In all sets together."""
        return sum(len(chosen.prompts) for chosen in self.sets.values())


def open_exam(suite: SuiteConfig, recipe: Recipe, version: Path, data: Path) -> Exam:
    """Load, render and tokenize a suite for the version in a directory; takes seconds.

    DataError for a set without a usable problem, ConfigError for problems that nobody verifies.
    """
    whole = completed(suite, recipe)
    assert whole.reward is not None and whole.max_tokens is not None
    tokenizer = load_tokenizer(str(version))
    sets = {name: _open_set(whole, chosen, recipe, tokenizer, data) for name, chosen in whole.sets.items()}
    for name, found in sets.items():
        _check_set(whole, name, found)
    return Exam(
        suite=whole,
        sets=sets,
        sampling=Sampling(whole.samples, whole.temperature, whole.top_p, whole.top_k, whole.max_tokens),
        reward=whole.reward,
        context=_context(version),
        digest=_digest(whole, sets),
    )


def _open_set(suite: SuiteConfig, chosen: SetConfig, recipe: Recipe, tokenizer: Tokenizer, data: Path) -> ProblemSet:
    prompts = _asked(suite, recipe.prompts)
    source = chosen.source
    if isinstance(source, HeldOutSource):
        return ProblemSet(tuple(open_stream(prompts, tokenizer, seed=recipe.run.seed).held_out()[: suite.limit]), Rejected())
    if isinstance(source, FileSource):
        source = located(source, data)
    problems, malformed = load(source, columns=chosen.columns, task=chosen.task)
    renderer = Renderer(tokenizer, prompts.template, prompts.system)
    prepared, unfit = prepare(problems[: suite.limit], renderer, ANY_LENGTH)
    rejected = Rejected.of([*malformed, *unfit])
    if not prepared:
        raise DataError(f"suite {suite.name}: no usable problem in {describe(source)}: {rejected.describe()}")
    return ProblemSet(tuple(one.prompt for one in prepared), rejected)


def _asked(suite: SuiteConfig, prompts: PromptsConfig) -> PromptsConfig:
    """The run's way of asking, or the suite's; the run's system message belongs to its own."""
    return prompts if suite.template is None else prompts.model_copy(update={"template": suite.template, "system": None})


def _check_set(suite: SuiteConfig, name: str, found: ProblemSet) -> None:
    assert suite.reward is not None
    rows = Counter(prompt.row for prompt in found.prompts)
    if twice := [row for row, count in rows.items() if count > 1]:
        raise DataError(f"suite {suite.name}, set {name}: two problems are called {twice[0]}")
    for task in sorted({prompt.task for prompt in found.prompts}) if suite.reward.by_task else ():
        if not known(task):
            raise ConfigError(f"suite {suite.name}, set {name}: no verifier is called {task!r}")


def _context(version: Path) -> int:
    """Positions that the model was built for; of one with several parts, those of the part that writes."""
    config: dict[str, Any] = json.loads((version / "config.json").read_text(encoding="utf-8"))
    return int(config.get("text_config", config)["max_position_embeddings"])


def _digest(suite: SuiteConfig, sets: Mapping[str, ProblemSet]) -> str:
    """Of everything that answers and verdicts depend on beside the weights."""
    digest = hashlib.sha256(suite.model_dump_json(exclude=NOT_IN_ANSWERS).encode())
    for name, chosen in sorted(sets.items()):
        digest.update(name.encode())
        for prompt in chosen.prompts:
            digest.update(json.dumps([prompt.row, prompt.task, prompt.answer, prompt.columns], sort_keys=True).encode())
            digest.update(prompt.token_ids.tobytes())
    return digest.hexdigest()
