from __future__ import annotations

from pathlib import Path

import pytest

from actors.errors import ModelError
from actors.weights.version import version_path
from services.policy.config import ServeConfig
from services.policy.engine import engine_options
from tests.unit.policy.conftest import Write


@pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`")  # Ray Serve's, when it is imported
def test_a_run_without_versions_is_refused_before_anything_starts(tmp_path: Path) -> None:
    from services.policy.endpoint import serve_run

    with pytest.raises(ModelError, match="no policy version to serve yet"):
        serve_run(tmp_path, ServeConfig())


def test_weights_are_served_in_the_type_they_are_stored_in(write: Write, policies: Path) -> None:
    write(0)
    model = version_path(policies, 0)
    assert engine_options(ServeConfig(), model)["dtype"] == "float32"
    assert engine_options(ServeConfig(dtype="bfloat16"), model)["dtype"] == "bfloat16"


def test_prompts_are_never_split_on_a_cpu(write: Write, policies: Path) -> None:
    write(0)
    options = engine_options(ServeConfig(kv_cache_mib=8), version_path(policies, 0))
    assert options["enable_chunked_prefill"] is False
    assert options["kv_cache_memory_bytes"] == 8 * 2**20
