# ruff: noqa: E501 - messages are asserted whole, so that they can be searched for
from __future__ import annotations

from typing import Any

import pytest

from meshless_core.meshlet import check_workload, load_objects

DEPLOYMENT = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: cart-v1, namespace: shop}
spec:
  replicas: 2
  strategy: {whatever: kubernetes allows}
  selector: {matchLabels: {app: cart}}
  template:
    metadata: {labels: {app: cart, meshless/meshlet: cart, version: v1}}
    spec:
      containers:
        - {name: main, image: cart:1, command: [python3, -m, http.server]}
"""


def problems(text: str) -> list[str]:
    (obj,) = load_objects(text, "f.yaml")
    return [str(problem) for problem in check_workload(obj.data, obj.source, obj.marks)]


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet", "DaemonSet"])
def test_a_workload_of_each_kind_is_fine(kind: str) -> None:
    assert problems(DEPLOYMENT.replace("Deployment", kind)) == []


def test_a_pod_is_fine() -> None:
    pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, labels: {meshless/meshlet: web}}\nspec: {nodeName: a, containers: [{name: x}]}\n"
    assert problems(pod) == []


def test_a_field_that_is_read_twice_is_wrong_once() -> None:
    pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, labels: [web]}\nspec: {containers: [{name: x}]}\n"
    assert problems(pod) == ["f.yaml:3: $.metadata.labels: must be a mapping, not a sequence"]


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("apps/v1", "v1", "f.yaml:1: $.apiVersion: must be apps/v1 for a Deployment, not the string 'v1'"),
        ("name: cart-v1", "name: A", "f.yaml:3: $.metadata.name: the string 'A' is not a DNS label"),
        ("replicas: 2", "replicas: -2", "f.yaml:5: $.spec.replicas: must be an integer from 0 to 2147483647, not -2"),
        ("replicas: 2", "replicas: two", "f.yaml:5: $.spec.replicas: must be an integer, not the string 'two'"),
        ("matchLabels: {app: cart}", "matchLabels: {app: web}", "f.yaml:7: $.spec.selector.matchLabels: selects app: web, but the pod template has the string 'cart'"),
        ("matchLabels: {app: cart}", "matchLabels: {tier: x}", "f.yaml:7: $.spec.selector.matchLabels: selects tier: x, but the pod template has no such label"),
        ("meshless/meshlet: cart", "meshless/meshlet: Cart", 'f.yaml:9: $.spec.template.metadata.labels["meshless/meshlet"]: the string \'Cart\' is not the name of a Meshlet'),
        ("version: v1", "version: 1.0", "f.yaml:9: $.spec.template.metadata.labels.version: must be a string, not the number 1.0: put it in quotes"),
        ("meshless/meshlet: cart", "meshless/meshlet: true", 'f.yaml:9: $.spec.template.metadata.labels["meshless/meshlet"]: must be a string, not the boolean true'),
        ("[python3, -m, http.server]", "python3 -m http.server", "f.yaml:12: $.spec.template.spec.containers[0].command: must be a sequence of strings"),
        ("[python3, -m, http.server]", "[sleep, 5]", "f.yaml:12: $.spec.template.spec.containers[0].command[1]: must be a string, not the number 5: put it in quotes"),
        ("    spec:\n      containers:", "    spec:\n      nodeName: Node_A\n      containers:", "f.yaml:11: $.spec.template.spec.nodeName: the string 'Node_A' is not a DNS label"),
        ("name: main, ", "", "f.yaml:12: $.spec.template.spec.containers[0]: required field 'name' is missing"),
    ],
)  # fmt: skip
def test_what_would_keep_its_pods_out_is_told(old: str, new: str, problem: str) -> None:
    assert old in DEPLOYMENT
    (found,) = problems(DEPLOYMENT.replace(old, new))
    assert found.startswith(problem)


@pytest.mark.parametrize("spec", ["{}", "{template: {}}", "{template: {metadata: {}, spec: {}}}", "5", "null"])
def test_what_is_missing_is_told_and_nothing_fails(spec: str) -> None:
    text = f"apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: a}}\nspec: {spec}\n"
    assert problems(text)


def test_a_pod_without_containers_is_told() -> None:
    obj: dict[str, Any] = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {}}
    assert [str(problem) for problem in check_workload(obj)] == ["$.spec: required field 'containers' is missing"]
