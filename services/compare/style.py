"""How series are told apart: by colour, by dashes and by marker, each alone enough for a few and together for nine."""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.typing import RcKeyType
from PIL import Image

from services.telemetry.charts import style

DPI, COLOURS = 150, 128
"""Of PNG files."""

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
"""As many as can be told apart."""

OWN = (
    ("gmpo",),
    ("grpo", "grpo, clip 0.8 to 1.2"),
    ("grpo-wide", "grpo, clip e^\u00b10.4"),
    ("gmpo-no-clip", "gmpo, clip=none"),
    ("gmpo-seq-clip", "gmpo, clip=sequence"),
    ("gmpo-no-norm", "gmpo, length_normalized=false"),
    ("dr-grpo", "dr_grpo"),
    ("dapo",),
    ("gspo",),
)
"""Labels that have a look of their own: the first of `LOOKS`, the second, ..."""


def looks(labels: Sequence[str]) -> list[Look]:
    """The look of each series. One of `OWN`, or else the first of its objective, looks the same on every page; others take what is left."""
    taken: dict[int, int] = {}
    for at in sorted(range(len(labels)), key=lambda at: own_place(labels[at])):
        place = int(own_place(labels[at]))
        if place < len(OWN) and place not in taken.values():
            taken[at] = place
    free = itertools.chain((place for place in range(len(LOOKS)) if place not in taken.values()), itertools.cycle(range(len(LOOKS))))
    return [LOOKS[taken[at] if at in taken else next(free)] for at in range(len(labels))]


def own_place(label: str) -> float:
    """Of a label among `OWN`; half a place later where only its objective is there; after all of them otherwise."""
    places = {name: place for place, names in enumerate(OWN) for name in names}
    return places.get(label, places.get(label.partition(",")[0], len(OWN)) + 0.5)


def save_png(figure: Figure, path: Path) -> None:
    """Write a figure with the colours it has and no more: a quarter of the bytes. The same figure gives the same file."""
    whole = io.BytesIO()
    figure.savefig(whole, format="png", dpi=DPI)
    Image.open(whole).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(path, dpi=(DPI, DPI), optimize=True)
