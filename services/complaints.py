"""What pydantic finds wrong with a recipe, one line a field, under the path that the person wrote and in words that help to mend it."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails


def complaints(error: ValidationError, tree: Mapping[str, Any], model: type[BaseModel]) -> list[str]:
    """A line for each bad field of `tree`, which was to be a `model`."""
    known = list(_fields(model))
    return list(dict.fromkeys(_complaint(item, _path(tree, item["loc"]), known) for item in error.errors()))


def _complaint(item: ErrorDetails, path: list[str], known: Sequence[str]) -> str:
    dotted = ".".join(path)
    match item["type"]:
        case "extra_forbidden":
            return f"{dotted}: {_unknown(dotted, known)}"
        case "union_tag_invalid":
            return f"{dotted}.type: {_unknown_type(item)}"
        case "union_tag_not_found":
            return f"{dotted}.type: is needed, since {dotted} has several types"
        case "model_type" | "model_attributes_type":
            value = item["input"]
            example = f"{dotted}.type={value}" if f"{dotted}.type" in known and isinstance(value, str) else f"{dotted}.field=value"
            return f"{dotted}: is a section; write {example}"
        case _:
            return _line(path, item["msg"])


def _unknown(path: str, known: Sequence[str]) -> str:
    if path in known:
        return "its section has such a field, but not with this type"
    names = {other.rpartition(".")[2] for other in known}
    near = difflib.get_close_matches(path.rpartition(".")[2], names, n=1)
    if not near:
        return "no such field"
    places = [other for other in known if other.rpartition(".")[2] == near[0]]
    section = path.partition(".")[0]
    return f"no such field; did you mean {max(places, key=lambda place: place.partition('.')[0] == section)}?"


def _unknown_type(item: ErrorDetails) -> str:
    context = item.get("ctx", {})
    tag, tags = str(context["tag"]), [word.strip(" '") for word in str(context["expected_tags"]).split(",")]
    near = difflib.get_close_matches(tag, tags, n=1)
    return f"no type is called {tag!r}; {f'did you mean {near[0]}?' if near else 'there are'} ({', '.join(tags)})"


def _path(node: Any, location: Sequence[int | str]) -> list[str]:
    """A field's path as the person wrote it: without the tags and the types that pydantic puts between the keys."""
    keys, tagged = [], False
    for part in location:
        tagged = isinstance(node, Mapping) and node.get("type") == part and not tagged
        if tagged or not isinstance(node, Mapping if isinstance(part, str) else Mapping | list):
            continue
        keys.append(str(part))
        node = node[part] if isinstance(node, list) else node.get(part)
    return keys


def _line(path: Sequence[str], message: str) -> str:
    """What a section says of itself begins with the field's name: "field: text"."""
    complaint = message.removeprefix("Value error, ")
    field, colon, text = complaint.partition(": ")
    if complaint != message and colon and field.replace(".", "").isidentifier():
        return f"{'.'.join([*path, field])}: {text}"
    return f"{'.'.join(path)}: {complaint}"


def _fields(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Dotted paths of all fields, of all types of each section."""
    for name, field in model.model_fields.items():
        yield f"{prefix}{name}"
        for section in _sections(field.annotation):
            yield from _fields(section, f"{prefix}{name}.")


def _sections(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _sections(argument)
