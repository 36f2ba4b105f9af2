"""Writes the chart's values.schema.json and README.md from the comments in its values: `python -m deploy.chart_docs`.

    # -- What the value is for, as the README says it.
    name: default # @schema enum: [a, b]

A value's type is its default's; the hint after `@schema` is YAML and adds to it, or replaces it. A mapping is a section, in which other
keys are refused, if the values in it are documented; if not, it is a value itself, free to hold anything. `ref` names a definition.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parents[1] / "helm" / "gmpo"
DOC, HINT = "# -- ", " # @schema "
TYPES = {str: "string", bool: "boolean", int: "integer", list: "array", dict: "object"}
MAPS_OF_TEXT = ("abels", "nnotations", "nodeSelector")
WORKERS_ONLY = ("replicas", "minReplicas", "maxReplicas", "idleTimeoutSeconds")

Schema = dict[str, Any]
"""A JSON schema."""


@dataclass(frozen=True, slots=True)
class Value:
    """One key of a values file; a section has no text and has values in it."""

    name: str
    text: str
    default: Any
    hints: Schema
    within: tuple[Value, ...]


def values_of(file: Path) -> tuple[Value, ...]:
    """The documented values of a file; ValueError where one has no text."""
    text = file.read_text(encoding="utf-8")
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    assert isinstance(root, yaml.MappingNode)
    return tuple(_values(root, text.splitlines(), file.name))


def _values(mapping: yaml.MappingNode, lines: list[str], path: str) -> Iterator[Value]:
    for key, node in mapping.value:
        line, here = key.start_mark.line, f"{path}: {key.value}"
        text = _text_above(lines, line)
        documented = _is_section(node, lines)
        if not text and not documented:
            raise ValueError(f"{here} (line {line + 1}) has no `{DOC.strip()}` comment")
        _, _, hint = lines[line].partition(HINT)
        default = yaml.SafeLoader("").construct_document(node)
        within = tuple(_values(node, lines, here)) if documented else ()
        yield Value(key.value, text, default, yaml.safe_load(f"{{{hint}}}"), within)


def _is_section(node: yaml.Node, lines: list[str]) -> bool:
    """Whether there are documented values in it, however deep."""
    if not isinstance(node, yaml.MappingNode) or node.flow_style:
        return False
    return any(_text_above(lines, key.start_mark.line) or _is_section(inner, lines) for key, inner in node.value)


def _text_above(lines: list[str], line: int) -> str:
    """The comment that ends on the line before, joined; empty if there is none that begins with the sign of a document."""
    found: list[str] = []
    while line and lines[line - 1].strip().startswith("#"):
        line -= 1
        found.insert(0, lines[line].strip())
        if found[0].startswith(DOC):
            return " ".join([found[0].removeprefix(DOC), *(text.removeprefix("# ") for text in found[1:])])
    return ""


def schema_of(value: Value) -> Schema:
    """What Helm admits for one value."""
    if "ref" in value.hints:
        return {"description": value.text, "$ref": f"#/$defs/{value.hints['ref']}"}
    if value.within:
        return section_of(value.within)
    of_text = {"additionalProperties": {"type": "string"}} if value.name.endswith(MAPS_OF_TEXT) else {}
    return {"description": value.text, "type": TYPES.get(type(value.default))} | of_text | value.hints


def section_of(values: tuple[Value, ...]) -> Schema:
    """A mapping with these keys and no others."""
    return {"type": "object", "additionalProperties": False, "properties": {value.name: schema_of(value) for value in values}}


def schema() -> Schema:
    """Of all values. `global` is Helm's own, there when the chart is part of another."""
    group = values_of(CHART / "worker-group.yaml")
    worker = section_of(group)
    top = section_of(values_of(CHART / "values.yaml"))
    top["properties"]["global"] = {"type": "object"}
    names = {"pattern": "^[a-z]([a-z0-9-]{0,29}[a-z0-9])?$"}
    definitions = {
        "head": section_of(tuple(value for value in group if value.name not in WORKERS_ONLY)),
        "worker": worker | {"required": ["resources"]},
        "workers": {"type": "object", "propertyNames": names, "additionalProperties": {"$ref": "#/$defs/worker"}},
    }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Values of the gmpo chart", **top, "$defs": definitions}


def table_of(values: tuple[Value, ...], prefix: str = "") -> Iterator[str]:
    """Rows of the README, depth first."""
    for value in values:
        if value.within:
            yield from table_of(value.within, f"{prefix}{value.name}.")
        else:
            default = json.dumps(value.default, separators=(", ", ": ")) if value.default not in ({}, []) else str(value.default)
            yield f"| `{prefix}{value.name}` | `{default}` | {value.text} |"


def readme() -> str:
    """The prose of README.in.md with the tables in their places."""
    text = (CHART / "README.in.md").read_text(encoding="utf-8")
    for mark, file in (("<!-- values -->", "values.yaml"), ("<!-- worker-group -->", "worker-group.yaml")):
        text = text.replace(mark, "\n".join(["| Value | Default | |", "|---|---|---|", *table_of(values_of(CHART / file))]))
    return text


def outputs() -> dict[Path, str]:
    """{file: what it must hold}."""
    return {CHART / "values.schema.json": json.dumps(schema(), indent=1) + "\n", CHART / "README.md": readme()}


def main() -> int:
    """Write both files."""
    for file, text in outputs().items():
        file.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
