"""Many tasks fail together once one has: which error to tell."""

from __future__ import annotations

from collections.abc import Iterator

import ray

from actors.errors import GmpoError, QueueClosed


def cause(failures: ExceptionGroup[Exception]) -> Exception:
    """What went wrong first, in an actor without Ray's stack in its text; that the queue is closed only where nothing else is said."""
    errors = [error.cause if isinstance(error, ray.exceptions.RayTaskError) else error for error in _leaves(failures)]
    named = [error for error in errors if isinstance(error, GmpoError)]
    return next((error for error in (*named, *errors) if not isinstance(error, QueueClosed)), errors[0])


def _leaves(error: Exception) -> Iterator[Exception]:
    if isinstance(error, ExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error
