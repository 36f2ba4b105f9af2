from __future__ import annotations

import pytest

from services.bench.weights import layer_specs, phase_seconds


@pytest.mark.parametrize("size_bytes", [4, 4_096, 2**20, 500 * 2**20])
def test_the_layers_come_to_the_size_that_was_asked_for(size_bytes: int) -> None:
    specs = list(layer_specs(size_bytes))
    assert sum(spec.size_bytes for spec in specs) == size_bytes
    assert len({spec.name for spec in specs}) == len(specs)


def test_a_phase_lasts_until_the_first_engine_enters_the_next_and_one_that_was_left_out_has_no_time() -> None:
    first = {"pause": 1.0, "send": 2.0, "commit": 5.0, "resume": 6.5, "probe": 7.0}
    later = {"pause": 1.5, "send": 1.75, "commit": 5.5, "resume": 6.0, "probe": 7.5}
    found = phase_seconds([first, later, {"end": 9.0}])
    assert found == {"pause": 0.75, "send": 3.25, "commit": 1.0, "resume": 1.0, "probe": 2.0}
