"""The chart is closed by default: who runs, what they may do, who reaches them, and where secrets are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.policy.app import ServeArgs
from tests.deploy.chart import CHART, CI_VALUES, Object, Refused, example, of_kind, pod_templates, ray_clusters, render, the

pytestmark = pytest.mark.deploy

TINY, GPUS = (CHART / "ci" / f"{name}-values.yaml" for name in ("tiny", "multi-node"))
SECRET_NAMES = re.compile(r"(password|secret|token|credential|_key\b|apikey)", re.IGNORECASE)


def _containers(template: Object) -> list[Object]:
    return [*template["spec"].get("initContainers", ()), *template["spec"]["containers"]]


@pytest.mark.parametrize("values", CI_VALUES, ids=lambda path: path.stem)
def test_pods_run_without_rights(values: Path) -> None:
    for name, template in pod_templates(example(values)):
        pod = template["spec"]
        assert pod["securityContext"] | {"runAsNonRoot": True, "runAsUser": 1000, "fsGroup": 1000} == pod["securityContext"]
        assert pod["securityContext"]["seccompProfile"]["type"] == ("Localhost" if name == "rayjob-cpu" else "RuntimeDefault")
        assert pod["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        assert not any("hostPath" in volume for volume in pod.get("volumes", ()))
        for container in _containers(template):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "privileged": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["limits"]["memory"]


def test_what_ray_writes_has_a_place_beside_the_read_only_root() -> None:
    for name, template in pod_templates(example(GPUS)):
        volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
        mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in template["spec"]["containers"][0]["volumeMounts"]}
        assert mounts["/tmp"]["emptyDir"]["sizeLimit"]
        assert mounts["/home/gmpo"]["emptyDir"]["sizeLimit"]
        if name != "submitter":
            assert mounts["/dev/shm"]["emptyDir"]["medium"] == "Memory"
            assert mounts["/runs"]["persistentVolumeClaim"]


@pytest.mark.parametrize("values", CI_VALUES, ids=lambda path: path.stem)
def test_every_ray_asks_for_a_token(values: Path) -> None:
    objects = example(values)
    for _, spec in ray_clusters(objects):
        assert spec["authOptions"]["mode"] == "token"
        assert spec["rayVersion"] == "2.60.0"
    for _, template in pod_templates(objects):
        for container in _containers(template):
            assert {"name": "RAY_AUTH_MODE", "value": "token"} in container["env"], "also under an operator that knows no authOptions"


def test_nobody_opens_ray_by_a_variable() -> None:
    mode: dict[str, Any] = {"extraEnv": [{"name": "RAY_AUTH_MODE", "value": "disabled"}]}
    group = {"resources": {}} | mode
    for values in (mode, {"training": {"head": mode}}, {"training": {"workerGroups": {"cpu": group}}}):
        with pytest.raises(Refused, match="extraEnv"):
            render(TINY, values)
    other = {"name": "NCCL_DEBUG", "value": "WARN"}
    for _, spec in ray_clusters(render(TINY, {"extraEnv": [other]})):
        assert other in spec["headGroupSpec"]["template"]["spec"]["containers"][0]["env"]


def test_the_api_servers_token_is_the_autoscalers_alone() -> None:
    spec = the(example(GPUS), "RayJob")["spec"]["rayClusterSpec"]
    mount = "/var/run/secrets/kubernetes.io/serviceaccount"
    assert mount in {each["mountPath"] for each in spec["autoscalerOptions"]["volumeMounts"]}
    assert spec["autoscalerOptions"]["securityContext"]["readOnlyRootFilesystem"] is True
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        assert mount not in {each["mountPath"] for each in group["template"]["spec"]["containers"][0]["volumeMounts"]}
    for _, other in ray_clusters(example(TINY)):
        volumes = other["headGroupSpec"]["template"]["spec"]["volumes"]
        assert not any("projected" in volume for volume in volumes), "nobody scales: nobody gets it"
    assert the(example(TINY), "ServiceAccount")["automountServiceAccountToken"] is False


@pytest.mark.parametrize("values", CI_VALUES, ids=lambda path: path.stem)
def test_no_secret_is_written_out(values: Path) -> None:
    objects = example(values)
    assert not of_kind(objects, "Secret")
    for _, template in pod_templates(objects):
        for container in _containers(template):
            for variable in container.get("env", ()):
                assert "valueFrom" in variable or not SECRET_NAMES.search(variable["name"])
            assert not any(SECRET_NAMES.search(word) for word in (*container.get("command", ()), *container.get("args", ())))
    for job in of_kind(objects, "RayJob"):
        assert not SECRET_NAMES.search(job["spec"]["entrypoint"])
        assert not any(SECRET_NAMES.search(name) for name in yaml.safe_load(job["spec"].get("runtimeEnvYAML", "{}")).get("env_vars", ()))


def test_each_pod_gets_the_credentials_that_it_needs_and_no_others() -> None:
    objects = render(GPUS, {"models": {"credentialsSecret": "hub"}, "envFrom": [{"configMapRef": {"name": "proxy"}}]})
    found = {
        name: [source[kind]["name"] for source in template["spec"]["containers"][0].get("envFrom", ()) for kind in source]
        for name, template in pod_templates(objects)
    }
    assert found == {
        "rayjob-head": ["s3", "hub", "wandb", "proxy"],
        "rayjob-engines": ["s3", "hub", "proxy"],
        "rayjob-learner": ["s3", "hub", "proxy"],
        "rayjob-cpu": ["proxy"],
        "rayservice-head": ["s3-read-only", "proxy"],
        "rayservice-replicas": ["s3-read-only", "proxy"],
        "submitter": [],
    }
    assert {cluster["authOptions"]["secretName"] for _, cluster in ray_clusters(objects)} == {"gmpo-ray-token"}
    password = {"valueFrom": {"secretKeyRef": {"name": "redis", "key": "password"}}}
    assert the(objects, "RayService")["spec"]["rayClusterConfig"]["gcsFaultToleranceOptions"] == {
        "redisAddress": "redis.redis:6379",
        "redisPassword": password,
    }


def _ingress(objects: list[Object], component: str | None) -> list[dict[str, Any]]:
    """What may reach the pods of a component."""
    (policy,) = (
        found
        for found in of_kind(objects, "NetworkPolicy")
        if found["spec"]["podSelector"]["matchLabels"].get("app.kubernetes.io/component") == component
    )
    assert "Ingress" in policy["spec"]["policyTypes"]
    rules: list[dict[str, Any]] = policy["spec"].get("ingress", [])
    return rules


@pytest.mark.parametrize("values", CI_VALUES, ids=lambda path: path.stem)
def test_nothing_gets_in_but_what_is_named(values: Path) -> None:
    objects = example(values)
    assert _ingress(objects, None) == [], "the rule for all pods lets nothing in"
    for _, spec in ray_clusters(objects):
        component = spec["headGroupSpec"]["template"]["metadata"]["labels"]["app.kubernetes.io/component"]
        for rule in _ingress(objects, component):
            assert rule["from"], "everybody"
            if "ports" not in rule:  # on any port: only its own cluster
                (peer,) = rule["from"]
                assert peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == component
                assert peer["podSelector"]["matchLabels"]["app.kubernetes.io/instance"] == "gmpo"


def test_clients_reach_the_endpoint_and_no_other_port() -> None:
    objects = example(GPUS)
    ingress_nginx = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress-nginx"}}}
    by_client = [rule for rule in _ingress(objects, "endpoint") if ingress_nginx in rule["from"]]
    assert [rule["ports"] for rule in by_client] == [[{"port": "serve"}]]
    assert not any(port["port"] == "serve" for rule in _ingress(objects, "training") for port in rule.get("ports", ()))


def test_egress_is_closed_when_asked() -> None:
    (closed,) = (found for found in of_kind(example(GPUS), "NetworkPolicy") if "Egress" in found["spec"]["policyTypes"])
    assert closed["metadata"]["name"] == "gmpo"
    to, names, *named = closed["spec"]["egress"]
    assert to["to"] == [{"podSelector": {"matchLabels": {"app.kubernetes.io/part-of": "gmpo"}}}]
    assert {port["port"] for port in names["ports"]} == {53}
    assert [rule["to"] for rule in named] == [[{"ipBlock": {"cidr": "10.0.0.0/8"}}]]


def test_the_endpoint_takes_its_settings_and_asks_for_keys() -> None:
    service = the(example(GPUS), "RayService")
    config = yaml.safe_load(service["spec"]["serveConfigV2"])
    assert config["http_options"] == {"host": "0.0.0.0", "port": 8000}
    (application,) = config["applications"]
    args = ServeArgs.model_validate(application["args"])
    assert str(args.run_dir) == "/runs/math-7b"
    assert args.policies == "s3://runs/math-7b/policies"
    assert (args.serve.replicas, args.serve.gpus, args.serve.open) == (2, 1, False)
    for _, template in pod_templates([service]):
        volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
        mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in template["spec"]["containers"][0]["volumeMounts"]}
        keys = mounts["/etc/gmpo/keys"]["secret"]
        assert args.serve.keys_file == f"/etc/gmpo/keys/{keys['items'][0]['path']}"
        assert keys["secretName"] == "gmpo-api-keys"
        assert keys["defaultMode"] == 0o440


def test_a_run_that_answers_is_reached_by_keys_too() -> None:
    objects = render(TINY, {"recipe": {"serve": {"during_training": True}}})
    job, service = the(objects, "RayJob"), the(objects, "Service")
    assert "serve.host=0.0.0.0 serve.keys_file=/etc/gmpo/keys/keys.json" in job["spec"]["entrypoint"]
    head = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]
    assert {"name": "serve", "containerPort": 8000} in head["spec"]["containers"][0]["ports"]
    ours = {key: value for key, value in service["spec"]["selector"].items() if key != "ray.io/node-type"}
    assert ours.items() <= head["metadata"]["labels"].items()
    assert "keys" in {volume["name"] for volume in head["spec"]["volumes"]}
    assert any(rule.get("ports") == [{"port": "serve"}] for rule in _ingress(objects, "training"))


def test_budgets_and_queues_are_as_asked() -> None:
    job = the(example(CHART / "ci" / "kueue-values.yaml"), "RayJob")
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
    assert "suspend" not in job["spec"], "an upgrade would take it out of Kueue's hands"
    objects = example(GPUS)
    budgets = {found["metadata"]["name"]: found["spec"] for found in of_kind(objects, "PodDisruptionBudget")}
    assert {name: spec["minAvailable"] for name, spec in budgets.items()} == {"gmpo-training": 1, "gmpo-endpoint": 1}
    assert budgets["gmpo-training"]["selector"]["matchLabels"]["ray.io/node-type"] == "head"
    volcano = the(example(CHART / "ci" / "shared-cluster-values.yaml"), "RayCluster")
    assert volcano["metadata"]["labels"]["volcano.sh/queue-name"] == "research"
