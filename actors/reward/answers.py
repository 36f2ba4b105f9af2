r"""How answers are written: gold answers as text, the last `\boxed{}` of a response, and a cheap normal form to compare by.

Everything here is linear in the length of its input: responses are untrusted and may be long.
"""

from __future__ import annotations

import re
from decimal import Decimal

from actors.types import Answer

SEARCHED_CHARS = 200_000
"""Only this many last characters of a response are searched for its answer."""

_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_NUMBER = re.compile(r"[-+]?(?:(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)")
_PLAIN_NUMBER = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)")
_POWER_OF_TEN = re.compile(r"(?:([-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))\\(?:times|cdot))?10\^(?:([0-9])|\{([-+]?[0-9]{1,3})\})")
_SCIENTIFIC = re.compile(r"([-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))[eE]([-+]?[0-9]{1,3})")
_THOUSANDS = re.compile(r"(?<![0-9,])([0-9]{1,3}(?:,[0-9]{3})+)(?![0-9,])")
_DROPPED = re.compile(r"\\(?:left|right)(?![a-zA-Z])|\\[!,;: ]|\\?\$|\^\\circ(?![a-zA-Z])|\^\{\\circ\}|\s+|(?<=[0-9])\{,\}(?=[0-9])")
_FRACTION = re.compile(r"\\[dt]frac(?![a-zA-Z])")
_SHORT_FRACTION = re.compile(r"\\frac([0-9])([0-9])")


def gold_texts(answer: Answer) -> list[str]:
    """The gold answer as texts, any of which is right. Data sets write whole numbers as floats: 142.0 becomes "142"."""
    golds = answer if isinstance(answer, list | tuple) else [answer]
    return [str(int(gold)) if isinstance(gold, float) and gold.is_integer() else str(gold).strip() for gold in golds]


def last_boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{...}`, its braces matched; None if there is none, or it is empty or never closed."""
    tail = text[-SEARCHED_CHARS:]
    boxes = list(_BOX.finditer(tail))
    if not boxes:
        return None
    start, depth = boxes[-1].end(), 1
    for brace in _BRACE.finditer(tail, start):
        depth += {"{": 1, "}": -1}.get(brace.group(), 0)  # an escaped brace is a character, not a border
        if depth == 0:
            return tail[start : brace.start()].strip() or None
    return None


def last_tagged(text: str, tag: str) -> str | None:
    """What stands between the last closed `<tag>` and its `</tag>`."""
    end = text.rfind(f"</{tag}>")
    start = text.rfind(f"<{tag}>", 0, max(end, 0))
    return text[start + len(tag) + 2 : end].strip() if start >= 0 else None


def count_boxed(text: str) -> int:
    r"""How many `\boxed{` a response opens."""
    return len(_BOX.findall(text))


def nesting(text: str) -> int:
    """Deepest nesting of braces, brackets and parentheses, matched or not."""
    depth = deepest = 0
    for char in text:
        if char in "{[(":
            depth += 1
            deepest = max(deepest, depth)
        elif char in "}])":
            depth -= 1
    return deepest


def canonical(text: str) -> str:
    r"""A cheap normal form of a LaTeX answer: equal forms are equal answers, unequal ones may still be.

    Drops spacing, `\left`, dollar and degree signs, thousands separators and a final full stop; writes `\frac{a}{b}` for its variants
    and `4.5e33` out.
    """
    text = written_out(_DROPPED.sub("", text).rstrip("."))
    text = _THOUSANDS.sub(lambda match: match.group().replace(",", ""), text)
    return _SHORT_FRACTION.sub(r"\\frac{\1}{\2}", _FRACTION.sub(r"\\frac", text))


def written_out(text: str) -> str:
    r"""A number as programs and some data sets write it, `4.5e33`, in LaTeX: `4.5\times10^{33}`; any other text as it is."""
    match = _SCIENTIFIC.fullmatch(text)
    return rf"{match[1]}\times10^{{{int(match[2])}}}" if match else text


def plain_number(text: str) -> Decimal | None:
    r"""The value of a canonical text that is a number, or one times a power of ten, and nothing else."""
    if _PLAIN_NUMBER.fullmatch(text):
        return Decimal(text)
    power = _POWER_OF_TEN.fullmatch(text)
    return Decimal(power[1] or 1).scaleb(int(power[2] or power[3])) if power else None


def numbers(text: str) -> list[Decimal]:
    """All numbers in a text, thousands separators understood: "$1,234.50." holds 1234.50."""
    return [Decimal(match.replace(",", "")) for match in _NUMBER.findall(text[-SEARCHED_CHARS:])]
