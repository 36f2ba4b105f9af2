"""What the KubeRay operator 1.7, and Kueue, refuse beyond the schemas of the CRDs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from tests.deploy.chart import Object, ray_clusters

DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")
LONGEST_NAME = {"RayCluster": 53, "RayJob": 47, "RayService": 47}
QUEUE, ELASTIC = "kueue.x-k8s.io/queue-name", "kueue.x-k8s.io/elastic-job"
ALPHA = ("networkPolicy", "tlsOptions", "historyServerOptions")
RESOURCES = {"num-cpus", "num-gpus", "memory", "resources"}


def complaints(found: Object) -> list[str]:
    """One line per broken rule."""
    return [
        *_of_name(found),
        *_of_job(found),
        *_of_queue(found),
        *(problem for _, spec in ray_clusters([found]) for problem in _of_cluster(spec)),
    ]


def _of_name(found: Object) -> Iterator[str]:
    name, longest = found["metadata"]["name"], LONGEST_NAME[found["kind"]]
    if len(name) > longest:
        yield f"name {name}: more than {longest} characters"
    if not DNS_1035.fullmatch(name):
        yield f"name {name}: no DNS-1035 label"


def _of_job(found: Object) -> Iterator[str]:
    if found["kind"] != "RayJob":
        return
    spec = found["spec"]
    selects, mode = bool(spec.get("clusterSelector")), spec.get("submissionMode", "K8sJobMode")
    if selects == ("rayClusterSpec" in spec):
        yield "one of rayClusterSpec and clusterSelector"
    if selects and not spec["clusterSelector"].get("ray.io/cluster"):
        yield "clusterSelector names no cluster"
    if selects and (spec.get("backoffLimit") or spec.get("suspend") or mode == "SidecarMode"):
        yield "clusterSelector with backoffLimit, suspend or SidecarMode"
    if mode == "InteractiveMode" and spec.get("backoffLimit"):
        yield "InteractiveMode with backoffLimit"
    if mode == "SidecarMode" and ("submitterPodTemplate" in spec or "submitterConfig" in spec):
        yield "SidecarMode with a submitter"
    if spec.get("suspend") and not spec.get("shutdownAfterJobFinishes"):
        yield "suspend without shutdownAfterJobFinishes"
    if spec.get("ttlSecondsAfterFinished", 0) < 0 or spec.get("backoffLimit", 0) < 0 or spec.get("activeDeadlineSeconds", 1) <= 0:
        yield "a negative time or limit"
    if not isinstance(yaml.safe_load(spec.get("runtimeEnvYAML", "{}")), dict):
        yield "runtimeEnvYAML is no mapping"


def _of_queue(found: Object) -> Iterator[str]:
    """Kueue's webhooks, for what has the label of one of its queues."""
    metadata = found["metadata"]
    if QUEUE not in metadata["labels"]:
        return
    sliced = metadata.get("annotations", {}).get(ELASTIC) == "true"
    if found["kind"] == "RayJob" and "clusterSelector" in found["spec"]:
        yield "a queue for a job on a cluster that exists"
    if found["kind"] == "RayJob" and not found["spec"].get("shutdownAfterJobFinishes"):
        yield "a queue without shutdownAfterJobFinishes"
    for _, spec in ray_clusters([found]):
        if spec.get("enableInTreeAutoscaling") and not sliced:
            yield f"a queue with autoscaling and without {ELASTIC}"
        if len(spec.get("workerGroupSpecs", ())) > 7:
            yield "a queue for more than seven worker groups"


def _of_cluster(spec: dict[str, Any]) -> Iterator[str]:
    head, workers = spec["headGroupSpec"], spec.get("workerGroupSpecs", [])
    scales = spec.get("enableInTreeAutoscaling", False)
    yield from (f"{name} is behind a feature gate" for name in ALPHA if name in spec)
    yield from _of_auth(spec)
    for group in [head, *workers]:
        yield from _of_group(group, scales=scales and spec["autoscalerOptions"]["version"] == "v2")
    for group in workers:
        yield from _of_sizes(group, scales=scales)
    yield from _of_state(spec, {env["name"] for env in head["template"]["spec"]["containers"][0].get("env", ())})


def _of_auth(spec: dict[str, Any]) -> Iterator[str]:
    if spec.get("authOptions", {}).get("mode") != "token":
        yield "authOptions.mode is not token"  # the operator would take it; this project does not
    version = spec.get("rayVersion", "")
    if not re.fullmatch(r"\d+\.\d+\.\d+", version) or tuple(map(int, version.split("."))) < (2, 52, 0):
        yield f"token authentication on Ray {version or 'of no version'}"
    if spec.get("authOptions", {}).get("enableK8sTokenAuth"):
        yield "enableK8sTokenAuth on a job or service"


def _of_group(group: dict[str, Any], *, scales: bool) -> Iterator[str]:
    params, pod = group.get("rayStartParams", {}), group["template"]["spec"]
    if RESOURCES & params.keys() and group.get("resources"):
        yield "resources both in rayStartParams and beside them"
    if "labels" in params or "redis-password" in params or "redis-username" in params:
        yield "rayStartParams that have fields of their own"
    if not all(LABEL_VALUE.fullmatch(value) and len(value) < 64 for value in group.get("labels", {}).values()):
        yield "Ray labels that are no label values"
    if scales and pod.get("restartPolicy", "Never") != "Never":
        yield "restartPolicy with the autoscaler v2"


def _of_sizes(group: dict[str, Any], *, scales: bool) -> Iterator[str]:
    least, most = group.get("minReplicas"), group.get("maxReplicas")
    if not scales and (least is None or most is None):
        yield f"group {group['groupName']}: minReplicas and maxReplicas are needed without autoscaling"
    if least is not None and most is not None and not 0 <= least <= most:
        yield f"group {group['groupName']}: minReplicas {least}, maxReplicas {most}"
    if "idleTimeoutSeconds" in group and not scales:
        yield f"group {group['groupName']}: idleTimeoutSeconds without autoscaling"


def _of_state(spec: dict[str, Any], env: set[str]) -> Iterator[str]:
    options = spec.get("gcsFaultToleranceOptions")
    if env & {"RAY_REDIS_ADDRESS", "REDIS_PASSWORD", "REDIS_USERNAME"}:
        yield "Redis in the head's environment; gcsFaultToleranceOptions has fields for it"
    if options is not None and options.get("backend", "redis") != "redis":
        yield "a GCS backend behind a feature gate"
    if "RAY_enable_autoscaler_v2" in env:
        yield "the autoscaler's version in the head's environment"
