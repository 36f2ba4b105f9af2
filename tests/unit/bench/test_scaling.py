from __future__ import annotations

from pathlib import Path

import pytest

from services.bench.plot import draw_scaling
from services.bench.results import Spread
from services.bench.scaling import Line, Sweep


def test_the_line_is_found_again() -> None:
    tokens = (100, 200, 400, 800)
    line = Line.fit(tokens, [0.5 + 0.01 * count for count in tokens])
    assert (line.base_s, line.per_token_s, line.r2) == pytest.approx((0.5, 0.01, 1.0))
    assert Line.fit(tokens, [1e-6 * count**2 for count in tokens]).slope == pytest.approx(2.0)
    assert Line.fit(tokens, [1e-6 * count**2 for count in tokens]).r2 < 0.99


def test_the_plot_is_a_picture_of_both_panels(tmp_path: Path) -> None:
    seconds = tuple(Spread(median, 0.9 * median, 1.2 * median, 3) for median in (0.1, 0.2, 0.4))
    sweeps = [
        Sweep("sequences", (1, 2, 4), (256, 512, 1024), seconds),
        Sweep("tokens a sequence", (64, 128, 256), (256, 512, 1024), seconds),
    ]
    draw_scaling(sweeps, tmp_path / "plots" / "scaling.png", title="30m, 1 rank")
    assert (tmp_path / "plots" / "scaling.png").read_bytes().startswith(b"\x89PNG")
