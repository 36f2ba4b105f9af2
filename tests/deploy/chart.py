"""What the chart makes of values, by the real helm."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.deploy.tools import ROOT, tool

CHART = ROOT / "helm" / "gmpo"
CI_VALUES = sorted((CHART / "ci").glob("*-values.yaml"))

Object = dict[str, Any]
"""A Kubernetes object as it is parsed."""


class Refused(Exception):
    """Helm would not render; the text is what it said."""


def render(*values: Path | Mapping[str, Any], release: str = "gmpo", namespace: str = "runs", extra: Sequence[str] = ()) -> list[Object]:
    """Objects that `helm template` prints, later values over earlier ones; Refused where the schema or a template says no."""
    with tempfile.TemporaryDirectory() as scratch:
        files = [value if isinstance(value, Path) else _written(value, Path(scratch) / f"{n}.json") for n, value in enumerate(values)]
        given = [word for file in files for word in ("--values", str(file))]
        command = [tool("helm"), "template", release, str(CHART), "--namespace", namespace, *given, *extra]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Refused(done.stderr)
    return [document for document in yaml.safe_load_all(done.stdout) if document]


@cache
def example(values: Path) -> list[Object]:
    """What one of the chart's examples renders to, made once: do not change it."""
    return render(values)


def of_kind(objects: Sequence[Object], kind: str) -> list[Object]:
    """Those of one kind."""
    return [found for found in objects if found["kind"] == kind]


def the(objects: Sequence[Object], kind: str) -> Object:
    """The only one of its kind."""
    (found,) = of_kind(objects, kind)
    return found


def ray_clusters(objects: Sequence[Object]) -> Iterator[tuple[Object, Object]]:
    """(the object, the RayCluster's spec within it) of each that makes a cluster."""
    for found in objects:
        match found["kind"]:
            case "RayJob" if "rayClusterSpec" in found["spec"]:
                yield found, found["spec"]["rayClusterSpec"]
            case "RayService":
                yield found, found["spec"]["rayClusterConfig"]
            case "RayCluster":
                yield found, found["spec"]


def pod_templates(objects: Sequence[Object]) -> Iterator[tuple[str, Object]]:
    """(a telling name, the template) of every pod that the operator would make."""
    for found, spec in ray_clusters(objects):
        kind = found["kind"].lower()
        yield f"{kind}-head", spec["headGroupSpec"]["template"]
        for group in spec.get("workerGroupSpecs", ()):
            yield f"{kind}-{group['groupName']}", group["template"]
    for job in of_kind(objects, "RayJob"):
        if "submitterPodTemplate" in job["spec"]:
            yield "submitter", job["spec"]["submitterPodTemplate"]


def _written(values: Mapping[str, Any], file: Path) -> Path:
    file.write_text(json.dumps(dict(values)), encoding="utf-8")  # which is YAML, and leaves no text without quotes to guess at
    return file
