"""reasoning-gym's own scorers. They need the whole entry a question was made with, so it travels in the prompt's column `entry`.

Some scorers put the response through `eval`, or through SymPy's `parse_expr`, which is `eval` too; neither happens here.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import json
import re
import sys
from collections.abc import Callable, Mapping
from functools import lru_cache
from types import ModuleType
from typing import Any

from actors.errors import VerifierError
from actors.reward.answers import last_boxed, last_tagged

MAX_CHARS = 20_000
_NAME = re.compile(r"[^\W\d]\w*")
_MATHEMATICAL = re.compile(r"abs|a?(?:sin|cos|tan)h?|cot|csc|sec|erf|exp|log|ln|pi|sqrt")
_EVALUATES_ANSWERS = frozenset({"binary_matrix", "n_queens", "spiral_matrix", "string_insertion"})

Scorer = Callable[[str, dict[str, Any]], float]


def known(name: str) -> bool:
    """Whether reasoning-gym has a task of this name. Imports the library, about two seconds."""
    return name in _registry()


def warm(name: str) -> None:
    """Load a task's scorer."""
    _scorer(name)


def extract(response: str) -> str:
    r"""The answer in a response: the last `<answer>`, or else the last `\boxed{}`, or else all of it."""
    return last_tagged(response, "answer") or last_boxed(response) or response.strip()


def score(name: str, given: str, entry: Mapping[str, Any] | str | None) -> float | None:
    """The task's own score in [0, 1] of an extracted answer; None if the scorer cannot read it. The entry may be JSON.

    Raises VerifierError where the fault is not the answer's: without an entry many scorers would silently say 0.
    """
    if not entry:
        raise VerifierError(f"reasoning_gym/{name} needs the column 'entry': the question, answer and metadata it was generated with")
    whole = json.loads(entry) if isinstance(entry, str) else dict(entry)
    scorer = _scorer(name)
    if len(given) > MAX_CHARS or not _harmless(given, scorer):
        return None
    try:
        return float(scorer(given, whole))
    except MemoryError:
        raise
    except Exception:
        scorer(whole["answer"], whole)  # raises too if it is the entry, not the given answer, that the scorer cannot read
        return None


@lru_cache(maxsize=64)
def _scorer(name: str) -> Scorer:
    if name not in _registry():
        raise VerifierError(f"reasoning-gym has no task {name!r}")
    dataset, config = _registry()[name]
    if name in _EVALUATES_ANSWERS:
        vars(_module(dataset))["eval"] = ast.literal_eval  # hides the built-in in that module alone
    scorer: Scorer = dataset(config=config()).score_answer
    return scorer


def _harmless(given: str, scorer: Scorer) -> bool:
    """False for what `parse_expr` could be made to run: attributes, strings, names of neither variables nor functions."""
    used = [str(getattr(thing, "__module__", None) or getattr(thing, "__name__", "")) for thing in vars(_module(scorer)).values()]
    if not any(origin.startswith("sympy") for origin in used):
        return True
    if re.search(r"""["'`\\\[\]{}@:;]|[^\W\d]\s*\.|\.\s*[^\W\d]""", given):
        return False
    return all(_MATHEMATICAL.fullmatch(word) or (len(word) <= 2 and not hasattr(builtins, word)) for word in _NAME.findall(given))


def _module(thing: Any) -> ModuleType:
    return sys.modules[thing.__module__]


@lru_cache(maxsize=1)
def _registry() -> Mapping[str, tuple[Any, Any]]:
    importlib.import_module("reasoning_gym")  # registers its tasks
    registry: Mapping[str, tuple[Any, Any]] = importlib.import_module("reasoning_gym.factory").DATASETS
    return registry
