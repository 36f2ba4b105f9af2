"""How series are told apart: by colour, by dashes and by marker, each alone enough for a few and together for nine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from matplotlib.typing import RcKeyType

from services.telemetry.charts import style

TEXT, GRID, MUTED = "#414955", "#dfe3e8", "#b4bac3"

LIGHT = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#222222", "#56b4e9", "#e69f00", "#882255", "#999933")
"""On white: Okabe and Ito's colours without yellow, and two of Paul Tol's, in an order that sets neighbours apart."""
DARK = ("#56b4e9", "#e69f00", "#52ecad", "#e5a2c3", "#f2f2f2", "#367dd0", "#d76626", "#b5629b", "#ccc160")
"""The same series on a dark page. Any two of either nine are 13 units of CIELAB apart or more, in protan, deutan and tritan sight too."""
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.2, 1.4)), (0, (6, 1.5, 1.2, 1.5)))
MARKERS = "os^DvPX*h"

INKS = {TEXT: "var(--ink-soft)", GRID: "var(--grid)", MUTED: "var(--muted)"} | {
    colour: f"var(--series-{at})" for at, colour in enumerate(LIGHT, start=1)
}
"""The colours of the files, and the variables that stand for them in a page."""

STYLE: dict[RcKeyType, Any] = style(TEXT, GRID) | {
    "font.size": 11,
    "axes.titlesize": 11,
    "legend.fontsize": 10.5,
    "savefig.facecolor": "white",
    "figure.constrained_layout.w_pad": 0.08,
    "figure.constrained_layout.h_pad": 0.08,
}


@dataclass(frozen=True, slots=True)
class Look:
    """How one series is drawn, in every figure."""

    colour: str
    dashes: Any
    marker: str


LOOKS = tuple(Look(colour, DASHES[at % len(DASHES)], MARKERS[at]) for at, colour in enumerate(LIGHT))
"""Of the first series, the second, ...; no more can be told apart."""
