"""All problems of a source that has an end; digit problems, which have none, are in `digits`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from actors.errors import DataError
from actors.prompts.columns import read_problem
from actors.prompts.config import Columns, DigitsSource, FileSource, FiniteSource, HubSource, PromptsConfig, ReasoningGymSource, Source
from actors.prompts.files import Raw, check_files, read_files
from actors.prompts.gym import open_task, read_task
from actors.prompts.problems import Problem, Reason, Rejection


def check(config: PromptsConfig) -> None:
    """What config validation may not do, since it touches disks: DataError for a missing file, ConfigError for an unknown task.

    Called before anything starts. The hub is not asked: that would download.
    """
    for source in (config.source, config.held_out_source):
        match source:
            case FileSource():
                check_files(source.paths)
            case ReasoningGymSource():
                open_task(source)
            case HubSource() | DigitsSource() | None:
                pass


def load(source: FiniteSource, *, columns: Columns | None = None, task: str | None = None) -> tuple[list[Problem], list[Rejection]]:
    """The problems of a source in its order, and the rows that are none.

    `task` is the verifier's name where the rows do not say (see `columns`). Raises DataError if the source cannot be read.
    """
    match source:
        case FileSource():
            return _read_rows(read_files(source.paths), columns or Columns(), task)
        case HubSource():
            return _read_rows(_hub_rows(source), columns or Columns(), task)
        case ReasoningGymSource():
            return read_task(source), []


def describe(source: Source) -> str:
    """A source in a person's words."""
    match source:
        case FileSource():
            return ", ".join(source.paths)
        case HubSource():
            return source.id
        case ReasoningGymSource() | DigitsSource():
            return f"{source.type} {source.task}"


def _read_rows(rows: Iterable[Raw], columns: Columns, task: str | None) -> tuple[list[Problem], list[Rejection]]:
    problems, rejections = [], []
    for name, value in rows:
        problem = value if isinstance(value, Reason) else read_problem(value, name=name, columns=columns, task=task)
        if isinstance(problem, Reason):
            rejections.append(Rejection(problem, name))
        else:
            problems.append(problem)
    return problems, rejections


def _hub_rows(source: HubSource) -> Iterator[Raw]:
    # Imported here because it takes most of a second that runs over files need not wait for.
    import datasets  # type: ignore[import-untyped]

    try:
        rows = datasets.load_dataset(source.name, name=source.config, split=source.split, revision=source.revision)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot load {source.id} at revision {source.revision}: {error}") from error
    for number, row in enumerate(rows, 1):
        yield Raw(f"{source.id}#{number}", row)
