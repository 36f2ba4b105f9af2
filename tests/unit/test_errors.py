from __future__ import annotations

import copy
import pickle

import pytest

from actors import errors
from actors.errors import GmpoError, UsageError, WeightSyncError, WeightSyncMismatch, WeightSyncTimeout

ALL = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, GmpoError)]
PLAIN = [kind for kind in ALL if not issubclass(kind, WeightSyncError)]


@pytest.mark.parametrize("kind", PLAIN)
def test_every_error_crosses_a_process_border_whole(kind: type[GmpoError]) -> None:
    received = pickle.loads(pickle.dumps(kind("what happened")))
    assert type(received) is kind and str(received) == "what happened"


@pytest.mark.parametrize("kind", [WeightSyncError, WeightSyncTimeout, WeightSyncMismatch])
@pytest.mark.parametrize("engine", [3, "all"])
def test_a_failed_publication_keeps_what_it_names(kind: type[WeightSyncError], engine: int | str) -> None:
    error = kind("no answer", engine=engine, phase="commit", version=12)
    for received in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(received) is kind
        assert (received.detail, received.engine, received.phase, received.version) == ("no answer", engine, "commit", 12)
        assert str(received) == f"version 12, engine {engine}, phase commit: no answer"


def test_the_tree_in_the_docstring_names_every_error() -> None:
    assert errors.__doc__ is not None
    assert not [kind.__name__ for kind in ALL if kind.__name__ not in errors.__doc__]


def test_what_a_person_can_mend_is_told_apart() -> None:
    assert {kind.__name__ for kind in ALL if issubclass(kind, UsageError)} == {
        "UsageError",
        "ConfigError",
        "DataError",
        "ModelError",
        "ClusterError",
    }
