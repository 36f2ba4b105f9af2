"""What the chart admits, how it names things, and that its papers are up to date."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deploy.chart_docs import outputs
from services.config import parse_recipe
from tests.deploy.chart import CHART, CI_VALUES, Refused, example, pod_templates, ray_clusters, render, the
from tests.deploy.operator_rules import DNS_1035
from tests.deploy.tools import ROOT, tool

pytestmark = pytest.mark.deploy

TINY = CHART / "ci" / "tiny-values.yaml"
GPUS = CHART / "ci" / "multi-node-values.yaml"


@pytest.mark.parametrize("values", CI_VALUES, ids=lambda path: path.stem)
def test_lint_is_content(values: Path) -> None:
    done = subprocess.run(
        [tool("helm"), "lint", "--strict", str(CHART), "--values", str(values)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_schema_and_readme_are_what_the_values_say() -> None:
    stale = [file.name for file, text in outputs().items() if file.read_text(encoding="utf-8") != text]
    assert not stale, "run python -m deploy.chart_docs"


def test_versions_are_the_projects() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    chart, values = (yaml.safe_load((CHART / name).read_text(encoding="utf-8")) for name in ("Chart.yaml", "values.yaml"))
    assert chart["appVersion"] == project["version"]
    assert f"ray[train,serve]=={values['rayVersion']}" in project["dependencies"]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"image": {"repository": ""}}, "image.repository is required"),
        ({"image": {"digest": "latest"}}, "/image/digest"),
        ({"image": {"pullPolicy": "Sometimes"}}, "/image/pullPolicy"),
        ({"imagee": {}}, "imagee"),
        ({"training": {"backofLimit": 1}}, "backofLimit"),
        ({"training": {"backoffLimit": "3"}}, "/training/backoffLimit"),
        ({"training": {"backoffLimit": -1}}, "/training/backoffLimit"),
        ({"training": {"submissionMode": "SidecarMode"}}, "/training/submissionMode"),
        ({"training": {"activeDeadlineSeconds": 0}}, "/training/activeDeadlineSeconds"),
        ({"training": {"terminationGracePeriodSeconds": 1}}, "/training/terminationGracePeriodSeconds"),
        ({"training": {"overrides": ["run.steps=$(id)"]}}, "/training/overrides"),
        ({"training": {"workerGroups": {"cpu": {"replicas": 1}}}}, "resources"),
        ({"training": {"workerGroups": {"cpu": {"resources": {}, "replica": 1}}}}, "replica"),
        ({"training": {"workerGroups": {"cpu": {"resources": {}, "replicas": "two"}}}}, "/training/workerGroups/cpu/replicas"),
        ({"training": {"workerGroups": {"A group": {"resources": {}}}}}, "A group"),
        ({"training": {"workerGroups": {"cpu": {"resources": {}, "rayStartParams": {"num-cpus": "4"}}}}}, "num-cpus"),
        ({"training": {"workerGroups": {"cpu": {"resources": {}, "replicas": 2, "maxReplicas": 1}}}}, "maxReplicas"),
        ({"training": {"workerGroups": {"cpu": {"resources": {}, "minReplicas": 2, "maxReplicas": 8}}}}, "<= replicas <="),
        (
            {"training": {"autoscaling": True, "workerGroups": {"cpu": {"resources": {}, "minReplicas": 9, "maxReplicas": 8}}}},
            "minReplicas 9",
        ),
        ({"training": {"workerGroups": {"cpu": {"resources": {}, "credentials": ["redis"]}}}}, "/training/workerGroups/cpu/credentials"),
        ({"training": {"workerGroups": {"gpu": {"resources": {"limits": {"nvidia.com/gpu": "1"}}}}}}, "recipe.cluster.device: gpu"),
        ({"training": {"autoscaling": True, "labels": {"kueue.x-k8s.io/queue-name": "gpus"}}}, "kueue.x-k8s.io/elastic-job"),
        ({"training": {"existingCluster": "theirs", "labels": {"kueue.x-k8s.io/queue-name": "gpus"}}}, "sharedCluster.labels"),
        ({"training": {"overrides": ["run.name=other"]}}, "training.overrides: run.name=other"),
        ({"training": {"overrides": ["run.root=/elsewhere"]}}, "training.overrides: run.root=/elsewhere"),
        ({"training": {"head": {"replicas": 2}}}, "replicas"),
        ({"commonLabels": {"team": 7}}, "/commonLabels/team"),
        ({"storage": {"accessModes": ["ReadWrite"]}}, "/storage/accessModes"),
        ({"storage": {"mountPath": "runs"}}, "/storage/mountPath"),
        ({"recipe": ["run"]}, "/recipe"),
        ({"recipe": "run: {name: [}"}, "not a YAML mapping"),
        ({"recipe": "run: tiny"}, "recipe.run"),
        ({"recipe": {"run": {"name": None}}}, "recipe.run.name is required"),
        ({"recipe": "run: {name: N}"}, "recipe.run.name: in quotes"),
        ({"recipe": {"run": {"root": "/elsewhere"}}}, "storage.mountPath"),
        ({"recipe": {"serve": {"during_training": True}}, "apiKeys": {"existingSecret": ""}}, "apiKeys.existingSecret is required"),
        ({"apiKeys": {"existingSecret": ""}}, "apiKeys.existingSecret is required"),
        ({"existingRecipe": {"configMap": "mine", "runName": "math"}}, "both given"),
        ({"recipe": None, "existingRecipe": {"configMap": "mine"}}, "existingRecipe.runName is required"),
        ({"sharedCluster": {"enabled": True}, "training": {"existingCluster": "theirs"}}, "both given"),
        ({"endpoint": {"ingress": {"enabled": True}}}, "endpoint.ingress.host is required"),
        ({"endpoint": {"gcsFaultTolerance": True}}, "redis.address is required"),
        ({"auth": {"mode": "disabled"}}, "mode"),
    ],
    ids=str,
)
def test_wrong_values_are_refused_by_name(values: dict[str, Any], says: str) -> None:
    with pytest.raises(Refused, match=re.escape(says)):
        render(TINY, values)


def test_an_existing_recipe_is_mounted_and_its_run_named() -> None:
    objects = render(TINY, {"recipe": None, "existingRecipe": {"configMap": "mine", "key": "math.yaml", "runName": "math"}})
    job = the(objects, "RayJob")
    volumes = {volume["name"]: volume for volume in job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["volumes"]}
    assert volumes["recipe"]["configMap"] == {"name": "mine", "items": [{"key": "math.yaml", "path": "recipe.yaml"}]}
    assert "run.name=math" in job["spec"]["entrypoint"]
    assert not [found for found in objects if found["kind"] == "ConfigMap"]


def test_a_recipe_keeps_its_meaning_as_a_tree_and_as_a_file(tmp_path: Path) -> None:
    tree = yaml.safe_load(TINY.read_text(encoding="utf-8"))["recipe"]
    tree["learner"]["optimizer"] |= {"lr": 1e-6, "lr_end": 1e-12}
    tree["run"]["seed"] = 123456789
    file = tmp_path / "recipe.yaml"
    file.write_text("# mine\n" + yaml.safe_dump(tree), encoding="utf-8")
    as_tree = the(render(TINY, {"recipe": tree}), "ConfigMap")["data"]["recipe.yaml"]
    as_file = the(render(TINY, {"recipe": None}, extra=["--set-file", f"recipe={file}"]), "ConfigMap")["data"]["recipe.yaml"]
    assert yaml.safe_load(as_tree)["learner"]["optimizer"]["lr"] == 1e-6
    assert parse_recipe(yaml.safe_load(as_tree)) == parse_recipe(yaml.safe_load(as_file)) == parse_recipe(tree)


@pytest.mark.parametrize("values", CI_VALUES, ids=lambda path: path.stem)
def test_the_examples_recipes_are_recipes(values: Path) -> None:
    held = yaml.safe_load(values.read_text(encoding="utf-8"))["recipe"]
    parse_recipe(yaml.safe_load(held) if isinstance(held, str) else held)


def test_the_recipe_makes_the_jobs_name() -> None:
    def name(*values: dict[str, Any]) -> str:
        return str(the(render(TINY, *values), "RayJob")["metadata"]["name"])

    same = name()
    assert same.startswith("gmpo-tiny-")
    assert name({"training": {"backoffLimit": 7}, "image": {"tag": "newer"}}) == same
    assert name({"training": {"labels": {"team": "math"}}}) == same
    others = [
        name({"recipe": {"run": {"steps": 141}}}),
        name({"training": {"revision": "again"}}),
        name({"training": {"overrides": ["run.steps=141"]}}),
    ]
    assert len({same, *others}) == 4


def test_a_job_of_the_same_name_has_the_same_recipe(tmp_path: Path) -> None:
    def rendered(text: str) -> tuple[str, str]:
        file = tmp_path / "recipe.yaml"
        file.write_text(text, encoding="utf-8")
        found = the(render(TINY, {"recipe": None}, extra=["--set-file", f"recipe={file}"]), "ConfigMap")
        assert found["immutable"], "an upgrade that changed its data would fail"
        return found["metadata"]["name"], found["data"]["recipe.yaml"]

    text = (ROOT / "deploy" / "recipes" / "tiny.yaml").read_text(encoding="utf-8")
    same = rendered(text)
    assert rendered("# Tried on Monday.\n" + text.replace("steps: 140", "steps:  140  # enough")) == same
    name, data = rendered(text.replace("steps: 140", "steps: 141"))
    assert name != same[0] and data != same[1]


def test_gpus_are_asked_for_by_the_recipe_or_an_override_of_it() -> None:
    gpu = {"workerGroups": {"gpu": {"resources": {"limits": {"nvidia.com/gpu": "1", "memory": "8Gi"}}}}}
    for device in ("gpu", "auto"):
        assert the(render(TINY, {"recipe": {"cluster": {"device": device}}, "training": gpu}), "RayJob")
    assert the(render(TINY, {"training": gpu | {"overrides": ["cluster.device=gpu"]}}), "RayJob")


def test_with_autoscaling_only_the_bounds_count() -> None:
    group = {"resources": {"limits": {"memory": "8Gi"}}, "minReplicas": 2, "maxReplicas": 8}
    objects = render(TINY, {"training": {"autoscaling": True, "workerGroups": {"cpu": group}}})
    (made,) = the(objects, "RayJob")["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert (made["minReplicas"], made["maxReplicas"]) == (2, 8)


@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    release=st.from_regex(r"[a-z0-9]([a-z0-9-]{0,51}[a-z0-9])?", fullmatch=True),
    run=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", fullmatch=True),
)
def test_names_fit_whatever_release_and_run_are_called(release: str, run: str) -> None:
    objects = render(TINY, {"recipe": {"run": {"name": run}}}, release=release)
    for found in objects:
        name = found["metadata"]["name"]
        assert DNS_1035.fullmatch(name)
        assert len(name) <= (47 if found["apiVersion"] == "ray.io/v1" else 63)
    assert f"/runs/{run}" in the(objects, "RayService")["spec"]["serveConfigV2"]


def test_pools_are_worker_groups_that_offer_what_recipes_ask_for() -> None:
    objects = example(GPUS)
    spec = the(objects, "RayJob")["spec"]["rayClusterSpec"]
    groups = {group["groupName"]: group for group in spec["workerGroupSpecs"]}
    assert list(groups) == ["cpu", "engines", "learner"]
    assert groups["engines"]["resources"] == {"engines": "4"}
    assert groups["engines"]["labels"] == {"pool": "engines"}
    assert not any("replicas" in group for group in groups.values()), "an upgrade would take it out of the autoscaler's hands"
    assert (groups["cpu"]["minReplicas"], groups["cpu"]["maxReplicas"], groups["cpu"]["idleTimeoutSeconds"]) == (0, 8, 60)
    assert spec["headGroupSpec"]["resources"] == {"CPU": "0"}, "the head is the driver's alone"
    engine = groups["engines"]["template"]
    assert engine["spec"]["nodeSelector"] == {"gpu": "h100"}
    assert engine["spec"]["runtimeClassName"] == "nvidia"
    assert engine["spec"]["priorityClassName"] == "training", "of all pods"
    assert "runtimeClassName" not in groups["cpu"]["template"]["spec"]
    assert "resources" not in the(example(TINY), "RayJob")["spec"]["rayClusterSpec"]["headGroupSpec"], "alone, the head does everything"


def test_a_shared_cluster_gets_the_job_and_the_recipe_along_with_it() -> None:
    for name, cluster in (("shared", "gmpo-cluster"), ("existing", "research")):
        objects = example(CHART / "ci" / f"{name}-cluster-values.yaml")
        spec = the(objects, "RayJob")["spec"]
        assert spec["clusterSelector"] == {"ray.io/cluster": cluster}
        assert not {"rayClusterSpec", "backoffLimit", "suspend"} & spec.keys()
        assert yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"]["GMPO_RUN_ROOT"] == "/runs"
        assert "telemetry.prometheus" not in spec["entrypoint"], "its port may be another run's"
    assert not list(ray_clusters(objects)), "on an existing cluster the chart makes no pods of its own"


def test_a_jobs_command_is_the_same_behind_the_shells_it_passes() -> None:
    spec = the(example(CHART / "ci" / "existing-cluster-values.yaml"), "RayJob")["spec"]
    entrypoint = spec["entrypoint"].replace("gmpo train", f"{sys.executable} -m services.cli config")
    split = subprocess.run(["bash", "-c", f"printf '%s\\0' {entrypoint}"], capture_output=True, text=True, check=True).stdout
    command = subprocess.list2cmdline(split.split("\0")[:-1])  # as `ray job submit` joins what the submitter's shell gives it
    environment = os.environ | yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"]
    printed = subprocess.run(command, shell=True, env=environment, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    run = yaml.safe_load(printed)["run"]
    assert (run["name"], run["steps"], run["root"]) == ("sort", 20, "/runs")


def test_storage_outlives_the_release_or_is_someone_elses() -> None:
    claim = the(example(TINY), "PersistentVolumeClaim")
    assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    theirs = render(TINY, {"storage": {"existingClaim": "theirs"}})
    assert not [found for found in theirs if found["kind"] == "PersistentVolumeClaim"]
    for _, spec in ray_clusters(theirs):
        volumes = {volume["name"]: volume for volume in spec["headGroupSpec"]["template"]["spec"]["volumes"]}
        assert volumes["runs"]["persistentVolumeClaim"]["claimName"] == "theirs"


def test_pods_keep_together_where_one_node_alone_may_mount_the_volume() -> None:
    def affinities(*values: Any) -> dict[str, Any]:
        return {name: template["spec"].get("affinity") for name, template in pod_templates(render(*values))}

    found = affinities(TINY)
    (term,) = found["rayjob-head"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert found["rayjob-head"] == found["rayservice-head"] and found["submitter"] is None, "which mounts nothing"
    labels = the(render(TINY), "RayService")["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["metadata"]["labels"]
    assert term["labelSelector"]["matchLabels"].items() <= labels.items(), "the first pod finds itself"
    assert set(affinities(TINY, {"storage": {"accessModes": ["ReadWriteMany"]}}).values()) == {None}
    ours = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "preference": {"matchFields": []}}]}}
    assert affinities(TINY, {"affinity": ours})["rayjob-head"] == ours


def test_an_endpoint_alone_has_no_run_to_follow() -> None:
    alone = ("--set=training.enabled=false,recipe=null,endpoint.runName=math",)
    objects = render(TINY, extra=alone)
    assert "/runs/math" in the(objects, "RayService")["spec"]["serveConfigV2"]
    assert not [found for found in objects if found["kind"] == "RayJob"]


def test_a_replica_has_as_long_to_answer_its_probe_as_there_is_between_two() -> None:
    (replicas,) = the(example(GPUS), "RayService")["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    probe = replicas["template"]["spec"]["containers"][0]["readinessProbe"]
    assert probe["timeoutSeconds"] == probe["periodSeconds"] == 5
