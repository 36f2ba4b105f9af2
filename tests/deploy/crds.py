"""What an API server with KubeRay's CRDs would refuse, by their own schemas."""

from __future__ import annotations

from functools import cache
from typing import Any

import jsonschema_rs
import yaml

from tests.deploy.chart import Object
from tests.deploy.tools import ROOT

CRDS = ROOT.parent / "shared" / "kuberay-crds"
FILES = {"RayCluster": "rayclusters", "RayJob": "rayjobs", "RayService": "rayservices"}


def complaints(found: Object) -> list[str]:
    """Each path that does not fit, with what is wrong there."""
    return [f"{'.'.join(map(str, error.instance_path))}: {error.message}" for error in _validator(found["kind"]).iter_errors(found)]


@cache
def _validator(kind: str) -> jsonschema_rs.Draft202012Validator:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    crd = yaml.load((CRDS / f"ray.io_{FILES[kind]}.yaml").read_text(encoding="utf-8"), Loader=loader)
    (version,) = (version for version in crd["spec"]["versions"] if version["name"] == "v1")
    schema = _strict(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    return jsonschema_rs.Draft202012Validator(schema)


def _strict(schema: dict[str, Any]) -> dict[str, Any]:
    """The same as a JSON schema that refuses unknown fields.

    Defaults are filled in before the server looks, so what has one is not required. Fields with CEL rules are refused: nothing here
    evaluates them, and the chart sets none.
    """
    if "x-kubernetes-validations" in schema:
        return {"not": {}}
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    strict: dict[str, Any] = {key: schema[key] for key in ("type", "enum", "pattern", "minimum", "maximum", "format") if key in schema}
    if properties := schema.get("properties"):
        strict["properties"] = {name: _strict(inner) for name, inner in properties.items()}
        strict["required"] = [name for name in schema.get("required", ()) if "default" not in properties.get(name, {})]
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            strict["additionalProperties"] = False
    if isinstance(inner := schema.get("additionalProperties"), dict):
        strict["additionalProperties"] = _strict(inner)
    if "items" in schema:
        strict["items"] = _strict(schema["items"])
    return strict
