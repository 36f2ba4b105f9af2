r"""math-verify, behind three functions: everything the project knows of that library is here.

Its own timeouts are signals, which fail outside the main thread, and it swallows their failure as "wrong"; they are switched off. What it
may cost is bounded by the child process it runs in. Only LaTeX is given to it: its parser for plain expressions goes through `eval`.
"""

from __future__ import annotations

import importlib
import logging
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from actors.reward.answers import nesting

MAX_CHARS = 1_000
MAX_NESTING = 24
"""Longer or deeper answers are not parsed: gold answers of the usual suites end at 160 characters and depth 4."""

SMALL = 1e-4
"""Numbers below are compared to three digits."""

_BASED = re.compile(r"([0-9]+)_\{?([0-9]+)\}?")


def warm() -> None:
    """Import the library and build its parsers, about a second, so that no response pays for it."""
    equal("1", "1.0")


@lru_cache(maxsize=256)
def parse(text: str) -> tuple[Any, ...]:
    """The LaTeX answer as SymPy objects; empty if it cannot be read. Gold answers recur for all responses of a group, hence the cache."""
    if len(text) > MAX_CHARS or nesting(text) > MAX_NESTING:
        return ()
    library = _library()
    try:
        return tuple(
            library.parse(
                rf"\boxed{{{text}}}",
                [library.LatexExtractionConfig(boxed_match_priority=0)],
                fallback_mode="no_fallback",
                parsing_timeout=None,
                raise_on_error=True,
            )
        )
    except MemoryError:
        raise
    except Exception:  # the parser raises whatever SymPy, ANTLR and int() raise
        return ()


def equal(gold: str, given: str) -> bool | None:
    """Whether two LaTeX answers say the same; None if the given one cannot be read."""
    parsed = parse(given)
    if not parsed:
        return None
    bases = _BASED.fullmatch(gold), _BASED.fullmatch(given)
    if bases[0] and bases[1]:  # the library drops the subscript: 52_8 would equal 52_9
        return bases[0].groups() == bases[1].groups()
    try:
        golds = parse(gold)
        same = bool(_library().verify(list(golds), list(parsed), timeout_seconds=None, raise_on_error=True))
        return same and not _apart(golds, parsed)
    except MemoryError:
        raise
    except Exception:  # two things that cannot be compared are not the same
        return False


def _apart(golds: Iterable[Any], given: Iterable[Any]) -> bool:
    """Whether these are small numbers and differ: the library looks at six decimals, to which 1.6e-19 and 1.7e-19 are the same."""
    small = [gold for gold in map(_real, golds) if gold is not None and 0 < abs(gold) < SMALL]
    if not small:
        return False
    values = [value for value in map(_real, given) if value is not None]
    return any(abs(gold - value) > 1e-3 * abs(gold) for gold in small for value in values)


def _real(parsed: Any) -> float | None:
    """The value of what is a real number; None also where SymPy cannot tell, as with some sums that it was told not to evaluate."""
    try:
        return float(parsed) if getattr(parsed, "is_number", False) and parsed.is_real else None
    except MemoryError:
        raise
    except Exception:
        return None


@lru_cache(maxsize=1)
def _library() -> Any:
    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that its timeouts are off
    return importlib.import_module("math_verify")
