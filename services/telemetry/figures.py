"""Figures as people read them: few digits, a unit, a dash where nothing is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

NOTHING = "–"  # noqa: RUF001 (an en dash is what is meant)
BARS = "▁▂▃▄▅▆▇█"

Figures = Mapping[str, float | None]


def number(value: float | None, *, digits: int = 3) -> str:
    """Three digits that matter, thousands grouped: 0.734, 12,345, 3.1e-06."""
    if value is None or value != value:
        return NOTHING
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if value == 0 or abs(value) >= 0.001:
        return f"{value:.{digits}g}"
    return f"{value:.1e}"


def share(value: float | None) -> str:
    """A fraction in percent."""
    return NOTHING if value is None or value != value else f"{100 * value:.1f} %"


def fixed(value: float | None) -> str:
    """Three decimals, for figures compared from step to step."""
    return NOTHING if value is None or value != value else f"{value:.3f}"


def clock(seconds: float | None) -> str:
    """Minutes and seconds, with hours and days where they are needed: 3:12, 1:03:12, 2 d 03:12."""
    if seconds is None or seconds != seconds:
        return NOTHING
    minutes, second = divmod(round(max(seconds, 0)), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days} d {hour:02d}:{minute:02d} h"
    return f"{hour}:{minute:02d}:{second:02d}" if hour else f"{minute}:{second:02d}"


def sparkline(values: Sequence[float], *, width: int = 32) -> str:
    """The last `width` values as bars between their least and greatest."""
    shown = [value for value in values if value == value][-width:]
    if not shown:
        return ""
    low, high = min(shown), max(shown)
    span = (high - low) or 1.0
    return "".join(BARS[round((value - low) / span * (len(BARS) - 1))] for value in shown)
