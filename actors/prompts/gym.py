"""Problems of reasoning-gym, each with the entry that its scorer needs."""

from __future__ import annotations

import json
from difflib import get_close_matches
from typing import Any

from actors.errors import ConfigError
from actors.prompts.config import ReasoningGymSource
from actors.prompts.problems import Problem


def open_task(source: ReasoningGymSource) -> Any:
    """The task's data set; ConfigError if there is no such task, or it does not take these options."""
    # Imported here because it takes 2 s and 105 tasks' worth of modules, which runs over other data need not wait for.
    import reasoning_gym  # type: ignore[import-untyped]
    from reasoning_gym.factory import DATASETS  # type: ignore[import-untyped]

    if source.task not in DATASETS:
        near = get_close_matches(source.task, DATASETS, n=3)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise ConfigError(f"prompts.source.task: reasoning-gym has no task {source.task!r}{hint}")
    try:
        return reasoning_gym.create_dataset(source.task, **{"seed": 0, **source.options, "size": source.size})
    except (AssertionError, AttributeError, TypeError, ValueError) as error:
        raise ConfigError(f"prompts.source.options: reasoning-gym's {source.task} refuses them: {error}") from error


def read_task(source: ReasoningGymSource) -> list[Problem]:
    """All problems of the task, graded as `reasoning_gym/<task>`.

    `columns["entry"]` is the whole entry (question, answer, metadata) for `score_answer(response, entry)`: many tasks take any
    right answer, and some have no gold answer at all (`answer` is then ""). The entry has been through JSON, as it will be on its
    way to a verifier; a task whose scorer is misled by that (arc_agi compares tuples) is refused.
    """
    data = open_task(source)
    problems = []
    for index in range(source.size):
        original = data[index]
        entry = json.loads(json.dumps(original))
        if index == 0 and _score(data, entry) != _score(data, original):
            raise ConfigError(f"prompts.source.task: reasoning-gym's scorer of {source.task} cannot grade an entry sent as JSON")
        problems.append(
            Problem(
                question=entry["question"],
                answer=entry["answer"] if entry["answer"] is not None else "",
                task=f"reasoning_gym/{source.task}",
                row=f"reasoning_gym/{source.task}#{index + 1}",
                columns={"entry": entry},
            )
        )
    return problems


def _score(data: Any, entry: dict[str, Any]) -> float:
    return float(data.score_answer(entry["answer"], entry))
