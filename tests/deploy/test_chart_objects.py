"""Every object the chart renders is one that Kubernetes and the KubeRay operator take."""

from __future__ import annotations

import copy
import json
import subprocess
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

from tests.deploy import crds, operator_rules
from tests.deploy.chart import CI_VALUES, Object, example, of_kind, pod_templates, render, the
from tests.deploy.tools import tool

pytestmark = pytest.mark.deploy

NO_SCHEMA = ("RayJob", "RayService", "RayCluster", "PodMonitor", "PrometheusRule")
"""Kinds that Kubernetes itself does not know."""
GPUS = next(path for path in CI_VALUES if path.stem.startswith("multi-node"))
ACCEPTED = {
    "CKV_K8S_8": "the operator gives every Ray container a liveness probe; a submitter ends by itself",
    "CKV_K8S_9": "the operator gives every Ray container a readiness probe, but for endpoint workers, which have one of ours",
    "CKV_K8S_15": "tags are not moved, and a digest can be given; pulling an image of gigabytes anew at each start helps nobody",
    "CKV_K8S_31": "one example gives the verifiers' group a profile of its own that allows bubblewrap its user namespaces",
    "CKV_K8S_35": "object stores, trackers and the model hub take their credentials from the environment; API keys are a file",
    "CKV_K8S_40": "the image's user is 1000; podSecurityContext changes it where hosts have such a user",
    "CKV_K8S_43": "a digest is the installer's to give (image.digest), as the example of several nodes does",
}
"""Findings of checkov that stay, and why."""
TEXT, TEXTS = {"type": "string", "minLength": 1}, {"type": "object", "additionalProperties": {"type": "string"}}


def _exactly(required: dict[str, Any], **optional: Any) -> dict[str, Any]:
    return {"type": "object", "properties": required | optional, "required": list(required), "additionalProperties": False}


def _some(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": 1}


KEY = _exactly({"name": TEXT, "key": TEXT})
RULE = {
    "oneOf": [
        _exactly({"record": TEXT, "expr": TEXT}, labels=TEXTS),
        _exactly({"alert": TEXT, "expr": TEXT}, labels=TEXTS, annotations=TEXTS, **{"for": TEXT, "keep_firing_for": TEXT}),
    ]
}
SETS = _exactly({"targetLabel": TEXT, "replacement": TEXT})
DROPS = _exactly({"action": {"const": "drop"}, "sourceLabels": _some(TEXT), "regex": TEXT})
MONITORING = {
    "PrometheusRule": _exactly({"groups": _some(_exactly({"name": TEXT, "rules": _some(RULE)}, interval=TEXT))}),
    "PodMonitor": _exactly(
        {
            "selector": _exactly({"matchLabels": TEXTS}),
            "podMetricsEndpoints": _some(
                _exactly(
                    {"port": TEXT},
                    interval=TEXT,
                    scrapeTimeout=TEXT,
                    path=TEXT,
                    authorization=_exactly({"credentials": KEY}),
                    relabelings=_some({"oneOf": [SETS, DROPS]}),
                )
            ),
        },
        jobLabel=TEXT,
        podTargetLabels=_some(TEXT),
    ),
}
"""Of the Prometheus operator's kinds, the fields that the chart uses."""


def _pods(values: Path) -> list[Object]:
    """The pods that the operator would make, as Kubernetes would be given them."""
    prefix = values.stem.removesuffix("-values")
    return [
        {"apiVersion": "v1", "kind": "Pod", "spec": template["spec"]}
        | {"metadata": {"name": f"{prefix}-{name}", "namespace": "runs"} | template["metadata"]}
        for name, template in pod_templates(example(values))
    ]


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All objects of Kubernetes' own kinds, and all pods, of all examples, in one file."""
    file = tmp_path_factory.mktemp("core") / "objects.yaml"
    objects = [found for values in CI_VALUES for found in [*example(values), *_pods(values)] if found["kind"] not in NO_SCHEMA]
    file.write_text(yaml.safe_dump_all(objects), encoding="utf-8")
    return file


@pytest.mark.parametrize("version", ["1.27", "1.37"])
def test_kubernetes_takes_every_object_and_pod(core: Path, version: str) -> None:
    command = [tool("kubernetes-validate"), "-k", version, "--strict", str(core)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "WARN" not in said, "an object was not checked"
    assert said.count("passed for resource pod/") == sum(len(_pods(values)) for values in CI_VALUES)


@pytest.mark.parametrize("values", CI_VALUES, ids=lambda path: path.stem)
def test_kuberay_takes_every_object(values: Path) -> None:
    ours = [found for found in example(values) if found["apiVersion"] == "ray.io/v1"]
    assert ours
    assert [problem for found in ours for problem in (*crds.complaints(found), *operator_rules.complaints(found))] == []


def test_the_check_of_kuberays_objects_sees_what_is_wrong() -> None:
    job = copy.deepcopy(the(example(GPUS), "RayJob"))
    spec = job["spec"]["rayClusterSpec"]
    spec["authOptions"]["mode"] = "tokne"
    spec["workerGroupSpecs"][0]["replicas"] = "two"
    spec["workerGroupSpecs"][1]["groupNam"] = spec["workerGroupSpecs"][1].pop("groupName")
    spec["headGroupSpec"]["template"]["spec"]["containers"][0]["imagee"] = "x"
    job["spec"]["managedBy"] = "someone"
    assert len(crds.complaints(job)) == 6
    job = copy.deepcopy(the(example(GPUS), "RayJob"))
    job["metadata"]["name"] = "9" * 48
    spec = job["spec"]["rayClusterSpec"]
    spec["rayVersion"] = "2.51.0"
    spec["networkPolicy"] = {}
    spec["headGroupSpec"]["rayStartParams"] = {"num-cpus": "0"}
    spec["workerGroupSpecs"][0]["template"]["spec"]["restartPolicy"] = "Always"
    spec["workerGroupSpecs"][0]["minReplicas"] = 9
    assert len(operator_rules.complaints(job)) == 7
    job = copy.deepcopy(the(example(GPUS), "RayJob"))
    job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = "gpus"
    assert operator_rules.complaints(job) == ["a queue with autoscaling and without kueue.x-k8s.io/elastic-job"]
    job["metadata"]["annotations"] = {"kueue.x-k8s.io/elastic-job": "true"}
    assert operator_rules.complaints(job) == []


def test_checkov_finds_nothing_but_what_is_accepted(core: Path) -> None:
    command = [tool("checkov"), "-f", str(core), "--framework", "kubernetes", "--skip-download", "-o", "json", "--soft-fail"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    report = json.loads(done.stdout)
    assert report["summary"]["resource_count"] >= sum(len(_pods(values)) for values in CI_VALUES)
    assert report["summary"]["parsing_errors"] == 0
    found = report["results"]["failed_checks"]
    assert [f"{each['check_id']} {each['check_name']}: {each['resource']}" for each in found if each["check_id"] not in ACCEPTED] == []
    assert ACCEPTED.keys() == {each["check_id"] for each in found}, "an acceptance that nothing needs"


@pytest.mark.parametrize("kind", MONITORING)
def test_prometheus_operator_takes_its_objects(kind: str) -> None:
    found = the(example(GPUS), kind)
    assert found["apiVersion"] == "monitoring.coreos.com/v1"
    assert [error.message for error in jsonschema_rs.Draft202012Validator(MONITORING[kind]).iter_errors(found["spec"])] == []
    assert found["metadata"]["labels"]["release"] == "prometheus", "by which Prometheus finds it"


def test_monitoring_is_off_unless_asked_for_and_then_whole() -> None:
    quiet = example(next(path for path in CI_VALUES if path.stem.startswith("tiny")))
    assert not [found for found in quiet if found["kind"] in MONITORING or "grafana_dashboard" in found["metadata"]["labels"]]
    dashboards = [found for found in of_kind(example(GPUS), "ConfigMap") if "grafana_dashboard" in found["metadata"]["labels"]]
    assert {json.loads(text)["uid"] for found in dashboards for text in found["data"].values()} == {"gmpo-run", "gmpo-endpoint"}


@pytest.mark.parametrize(("groups", "dropped"), [(True, ["endpoint;head"]), (False, [])])
def test_replicas_are_scraped_and_no_head_that_hands_on_to_them(groups: bool, dropped: list[str]) -> None:
    objects = example(GPUS) if groups else render(GPUS, {"endpoint": {"workerGroups": None}})
    (serve,) = (each for each in the(objects, "PodMonitor")["spec"]["podMetricsEndpoints"] if each["port"] == "serve")
    assert [each["regex"] for each in serve["relabelings"] if each.get("action") == "drop"] == dropped


def test_every_port_that_is_named_is_a_port_of_the_pods() -> None:
    objects = example(GPUS)
    ports = {
        component: {port["name"] for _, template in pod_templates([found]) for port in template["spec"]["containers"][0].get("ports", ())}
        for component, found in (("training", the(objects, "RayJob")), ("endpoint", the(objects, "RayService")))
    }
    for policy in of_kind(objects, "NetworkPolicy"):
        component = policy["spec"]["podSelector"]["matchLabels"].get("app.kubernetes.io/component")
        named = {port["port"] for rule in policy["spec"].get("ingress", ()) for port in rule.get("ports", ())}
        assert named <= ports.get(component, set())
    assert {each["port"] for each in the(objects, "PodMonitor")["spec"]["podMetricsEndpoints"]} <= ports["training"] | ports["endpoint"]


def test_every_label_that_selects_is_on_the_pods_it_means() -> None:
    objects = example(GPUS)
    by_operator = {"ray.io/serve", "ray.io/node-type"}
    labels = [template["metadata"]["labels"] for _, template in pod_templates(objects)]
    selectors = [
        found["spec"]["selector"]["matchLabels"] for kind in ("PodDisruptionBudget", "PodMonitor") for found in of_kind(objects, kind)
    ]
    selectors += [found["spec"]["podSelector"]["matchLabels"] for found in of_kind(objects, "NetworkPolicy")]
    for selector in selectors:
        ours = {key: value for key, value in selector.items() if key not in by_operator}
        assert any(ours.items() <= pod.items() for pod in labels)
    assert not any("app.kubernetes.io/name" in pod for pod in labels), "the operator's services select heads by its own"


def test_nothing_rendered_is_empty() -> None:
    def empty(node: Any, path: str = "") -> list[str]:
        if isinstance(node, dict | list) and node:
            pairs = node.items() if isinstance(node, dict) else enumerate(node)
            return [found for key, value in pairs for found in empty(value, f"{path}.{key}")]
        return [path] if node in (None, {}, [], "") else []

    anywhere = [".namespaceSelector", ".podSelector"]  # empty, these select everything
    for values in CI_VALUES:
        found = [path for each in example(values) for path in empty(each)]
        assert [path for path in found if not path.endswith(tuple(anywhere))] == []
