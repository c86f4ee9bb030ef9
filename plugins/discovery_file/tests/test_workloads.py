"""Expansion does on paper what controllers and scheduler do: deterministic pods, or every problem with its line."""

from collections import Counter
from typing import Any

import pytest
from meshless_discovery_file.workloads import MAX_PODS, Expansion, expand

from meshless_core import load_objects

NODES = ("node-a", "node-b")


def expanded(text: str, nodes: tuple[str, ...] = NODES) -> Expansion:
    return expand(load_objects(text, "mesh.yaml"), nodes)


def pods(text: str, nodes: tuple[str, ...] = NODES) -> dict[str, dict[str, Any]]:
    result = expanded(text, nodes)
    assert result.problems == ()
    return {one["metadata"]["name"]: dict(one) for one in result.objects}


def workload(
    kind: str = "Deployment", name: str = "cart", replicas: str = "replicas: 3", labels: str = "app: cart", spec: str = ""
) -> str:
    return f"""
apiVersion: apps/v1
kind: {kind}
metadata: {{namespace: shop, name: {name}}}
spec:
  {replicas}
  selector: {{matchLabels: {{app: cart}}}}
  template:
    metadata: {{labels: {{{labels}, meshless/meshlet: cart, version: v1}}}}
    spec: {{containers: [{{name: main, command: [serve], args: [--fast], env: [{{name: A, value: b}}]}}]{spec}}}
"""


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet"])
def test_replicas_become_pods_with_stable_names_spread_over_the_nodes(kind: str) -> None:
    found = pods(workload(kind))
    assert list(found) == ["cart-0", "cart-1", "cart-2"]
    on = [pod["spec"]["nodeName"] for pod in found.values()]
    assert on[0] == on[2] != on[1]
    pod = found["cart-0"]
    assert pod["metadata"]["namespace"] == "shop"
    assert pod["metadata"]["labels"] == {"app": "cart", "meshless/meshlet": "cart", "version": "v1"}
    assert pod["metadata"]["ownerReferences"][0]["kind"] == kind
    assert pod["spec"]["containers"][0] == {
        "name": "main",
        "command": ["serve"],
        "args": ["--fast"],
        "env": [{"name": "A", "value": "b"}],
    }
    assert "status" not in pod


def test_a_daemon_set_has_one_pod_per_node() -> None:
    found = pods(workload("DaemonSet", replicas="updateStrategy: {}"))
    assert {name: pod["spec"]["nodeName"] for name, pod in found.items()} == {"cart-node-a": "node-a", "cart-node-b": "node-b"}


def test_one_replica_is_the_default_and_none_is_possible() -> None:
    assert list(pods(workload(replicas=""))) == ["cart-0"]
    assert pods(workload(replicas="replicas: 0")) == {}


def test_a_node_name_is_honoured_also_one_the_options_do_not_know() -> None:
    found = pods(workload(spec=", nodeName: node-z"))
    assert {pod["spec"]["nodeName"] for pod in found.values()} == {"node-z"}


def test_many_single_workloads_are_spread_too() -> None:
    text = "\n---\n".join(workload(name=f"w{number}", replicas="replicas: 1") for number in range(200))
    counts = Counter(pod["spec"]["nodeName"] for pod in pods(text).values())
    assert min(counts[node] for node in NODES) > 70


def test_uids_are_the_same_for_the_same_pod_and_new_for_a_changed_template_or_node() -> None:
    first = pods(workload())
    assert pods(workload(replicas="replicas: 5"))["cart-0"] == first["cart-0"]
    changed = pods(workload(labels="app: cart, extra: x"))
    moved = pods(workload(), nodes=("node-c", "node-d"))
    uids = [made["cart-0"]["metadata"]["uid"] for made in (first, changed, moved)]
    assert len({*uids, first["cart-1"]["metadata"]["uid"]}) == 4


def test_a_pod_is_taken_as_it_is_with_uid_and_node() -> None:
    found = pods("apiVersion: v1\nkind: Pod\nmetadata: {name: web, labels: {meshless/meshlet: web}}\n")
    assert found["web"]["metadata"]["namespace"] == "default"
    assert found["web"]["spec"]["nodeName"] in NODES
    assert found["web"]["metadata"]["uid"]
    given = pods(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: web, namespace: shop, uid: u-1}\nspec: {nodeName: node-b}\n"
        "status: {phase: Failed}\n"
    )
    assert given["web"]["metadata"]["uid"] == "u-1"
    assert given["web"]["spec"]["nodeName"] == "node-b"
    assert given["web"]["status"] == {"phase": "Failed"}


def test_meshlets_are_passed_as_written_even_wrong_ones() -> None:
    result = expanded("apiVersion: meshless.dev/v1\nkind: Meshlet\nmetadata: {name: cart}\nspec: {sever: 1}\n")
    assert result.objects[0]["spec"] == {"sever": 1}
    assert result.origin == ("mesh.yaml:1",)
    assert result.problems == ()


def test_lists_are_their_items_and_other_kinds_are_ignored_once_each() -> None:
    result = expanded(
        "kind: List\nitems:\n- {apiVersion: v1, kind: Pod, metadata: {name: a}}\n- {apiVersion: v1, kind: Service}\n"
        "- {apiVersion: v1, kind: Service}\n"
    )
    assert len(result.objects) == 1
    assert result.ignored == {"Service": "mesh.yaml:4"}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("metadata: {name: x}", "mesh.yaml:1: $.kind: is missing"),
        (workload().replace("apps/v1", "app/v1"), "mesh.yaml:2: $.apiVersion: of a Deployment has to be apps/v1"),
        (workload(replicas="replicas: three"), "mesh.yaml:6: $.spec.replicas: has to be an integer of 0 to 20000"),
        (workload(replicas="replicas: true"), "$.spec.replicas: has to be an integer"),
        (workload(replicas="replicas: -1"), "$.spec.replicas: has to be an integer"),
        (workload(replicas="replicas: 20001"), "$.spec.replicas: has to be an integer"),
        (workload(labels="app: other"), "$.spec.selector.matchLabels: is not what the pod template is labelled with (app)"),
        (workload(labels="app: cart, n: 5"), '$.spec.template.metadata.labels["n"]: is not a label value'),
        (workload(spec=", nodeName: Node_A"), "$.spec.template.spec.nodeName: is not a DNS label"),
        (workload(name="Cart"), "mesh.yaml:4: $.metadata.name: is missing or not DNS labels"),
        (workload().replace("namespace: shop", "namespace: 5"), "$.metadata.namespace: is not a DNS label"),
        ("apiVersion: v1\nkind: Pod\nmetadata: []", "mesh.yaml:3: $.metadata: has to be a mapping"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: 5}", "$.spec.containers: has to be a list"),
        (workload() + "---" + workload(), "Deployment shop/cart is declared at mesh.yaml:2 already: keep one"),
        (workload() + "---" + workload("StatefulSet"), "pod shop/cart-0 comes from mesh.yaml:2 already: rename one"),
        (
            workload(replicas=f"replicas: {MAX_PODS}") + "---" + workload(name="b", replicas="replicas: 5"),
            f"more than {MAX_PODS} pods in all: lower replicas",
        ),
    ],
)
def test_a_problem_names_file_line_field_and_fix(text: str, problem: str) -> None:
    found = [str(one) for one in expanded(text).problems]
    assert any(problem in one for one in found), found
    assert len(found) == len(set(found))


def test_every_problem_is_told_at_once() -> None:
    text = workload(replicas="replicas: x") + "---" + workload(name="B", labels="app: cart") + "---\nkind: 5\n"
    assert len(expanded(text).problems) == 3
