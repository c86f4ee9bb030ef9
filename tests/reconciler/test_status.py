"""Conditions say what is wrong and what to do, and keep their transition times."""

import json
from typing import Any

import pytest

from meshless_core.errors import Problem
from meshless_core.hookspecs import DiscoverySnapshot
from meshless_core.reconciler.compilation import compile_documents
from meshless_core.reconciler.status import Condition, ReconcilerStatus, assess, orphans
from meshless_core.reconciler.world import ObjectMemory
from meshless_core.types import MeshletRef, PodRef

NODES = {"node-a": "127.0.0.1:7001"}
CART = MeshletRef("shop", "cart")
TYPES = ["Accepted", "Resolved", "Available", "SelectorConsistent", "CanaryDegraded", "Published", "Ready"]


def meshlet(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "meshless.dev/v1",
        "kind": "Meshlet",
        "metadata": {"namespace": "shop", "name": "cart", "generation": 4},
        "spec": spec,
    }


def pod(name: str, node: str | None = "node-a", ready: bool = True, **labels: str) -> dict[str, Any]:
    labels = {
        "meshless/meshlet": "cart",
        "app": "cart",
        **{key: value for key, value in labels.items() if key != "meshlet"},
    } | ({"meshless/meshlet": labels["meshlet"]} if "meshlet" in labels else {})
    return {
        "kind": "Pod",
        "metadata": {"namespace": "shop", "name": name, "uid": f"u-{name}", "labels": labels},
        "spec": {"nodeName": node},
        "status": {"conditions": [{"type": "Ready", "status": str(ready)}]},
    }


SERVER: dict[str, Any] = {"selector": {"app": "cart"}, "services": [{"name": "http"}]}


def judge(
    *objects: dict[str, Any], before: ReconcilerStatus | None = None, now: float = 100.0, **more: Any
) -> ReconcilerStatus:
    world = ObjectMemory().update(DiscoverySnapshot(objects, [f"mesh.yaml:{index}" for index in range(len(objects))]))
    known = before or ReconcilerStatus()
    options = {"failed": {}, "bus_error": None, **more}
    return ReconcilerStatus(meshlets=assess(world, compile_documents(world, NODES), before=known, now=now, **options))


def condition(status: ReconcilerStatus, type_: str) -> Condition:
    meshlet_status = status.of(CART)
    assert meshlet_status is not None
    found = meshlet_status.condition(type_)
    assert found is not None
    return found


def test_all_conditions_are_there_at_first_sight_and_a_good_meshlet_is_ready() -> None:
    status = judge(meshlet(server=SERVER), pod("a"))
    assert [one.type for one in status.meshlets[0].conditions] == TYPES
    assert {one.type for one in status.meshlets[0].conditions if one.status == "True"} == set(TYPES) - {"CanaryDegraded"}
    assert all(one.message == "" for one in status.meshlets[0].conditions)
    assert status.meshlets[0].observed_generation == 4


canary = [{"version": "v1", "weight": 9}, {"version": "v2", "weight": 1}]


@pytest.mark.parametrize(
    ("objects", "type_", "status", "reason", "message"),
    [
        ([meshlet(bad=1)], "Accepted", "False", "Invalid", "there is no earlier version"),
        ([meshlet(bad=1)], "Published", "False", "NotInForce", "never valid"),
        (
            [meshlet(client=[{"namespace": "shop", "meshlet": "db", "service": "sql"}])],
            "Resolved",
            "False",
            "ClientTargetMissing",
            "services that do not exist: sql.db.shop; declare or remove them",
        ),
        ([meshlet()], "Available", "True", "NoServices", ""),
        ([meshlet(server=SERVER)], "Available", "False", "NoPods", "no pod is labelled meshless/meshlet"),
        ([meshlet(server=SERVER), pod("a", app="x")], "Available", "False", "SelectorMatchesNoPod", "none of its pods: shop/a"),
        (
            [meshlet(server=SERVER), pod("a", ready=False)],
            "Available",
            "False",
            "NoReadyPods",
            "none of its 1 pods is ready: shop/a",
        ),
        (
            [meshlet(server=SERVER), pod("a", "node-z")],
            "Available",
            "False",
            "NoReadyPods",
            "not on a node of the mesh: shop/a on node-z",
        ),
        ([meshlet(server=SERVER), pod("a", None)], "Available", "False", "NoReadyPods", "shop/a on no node"),
        (
            [meshlet(server=SERVER), pod("a"), pod("b", meshlet="web")],
            "SelectorConsistent",
            "False",
            "SelectorMatchesOtherPods",
            "matches pods of other meshlets, which get no connections: shop/b; label them",
        ),
        (
            [meshlet(server={**SERVER, "canary": canary}), pod("a", version="v1")],
            "CanaryDegraded",
            "True",
            "CanaryVersionUnavailable",
            "no ready pod of version v2: its share goes to the other versions",
        ),
        (
            [meshlet(server={**SERVER, "canary": canary}), *(pod(name, version=name) for name in ("v1", "v2", "v3")), pod("x")],
            "CanaryDegraded",
            "True",
            "CanaryVersionNotListed",
            "ready pods with version none, 'v3' get no connections",
        ),
        (
            [meshlet(server={**SERVER, "canary": canary}), pod("a", version="v1"), pod("b", version="v2")],
            "CanaryDegraded",
            "False",
            "AllVersionsAvailable",
            "",
        ),
    ],
)
def test_a_condition_names_reason_objects_and_fix(
    objects: list[dict[str, Any]], type_: str, status: str, reason: str, message: str
) -> None:
    found = condition(judge(*objects), type_)
    assert (found.status, found.reason) == (status, reason)
    assert message in found.message
    assert bool(found.message) == bool(message)


def test_what_the_bus_did_not_take_is_not_published_and_not_ready() -> None:
    down = judge(meshlet(server=SERVER), pod("a"), bus_error="no route")
    assert condition(down, "Published").reason == "BusUnavailable"
    refused = judge(
        meshlet(server=SERVER), pod("a"), failed={"service/shop/cart/http": "too large", "service/shop/x/y": "other"}
    )
    assert (condition(refused, "Published").reason, condition(refused, "Published").message) == ("DocumentRefused", "too large")
    ready = condition(refused, "Ready")
    assert (ready.status, ready.reason, ready.message) == ("False", "DocumentRefused", "see condition Published")


def test_a_transition_time_changes_with_the_status_only() -> None:
    first = judge(meshlet(server=SERVER), pod("a"), now=100.0)
    same = judge(meshlet(server=SERVER), pod("a"), pod("b"), before=first, now=200.0)
    assert {one.since for one in same.meshlets[0].conditions} == {100.0}
    down = judge(meshlet(server=SERVER), before=same, now=300.0)
    assert condition(down, "Available").since == 300.0
    assert condition(down, "Accepted").since == 100.0


def test_long_lists_are_cut() -> None:
    found = condition(judge(meshlet(server=SERVER), *(pod(f"p{number}", ready=False) for number in range(9))), "Available")
    assert "shop/p4 and 4 more" in found.message


def test_the_json_has_the_names_of_kubernetes() -> None:
    status = ReconcilerStatus(
        epoch=3,
        generation=9,
        updated=0.0,
        meshlets=judge(meshlet(server=SERVER), pod("a")).meshlets,
        problems=(Problem("$.x", "is wrong", "mesh.yaml", 3),),
        nodes={"node-a": 1},
    )
    data = json.loads(status.to_json())
    assert data["updated"] == "1970-01-01T00:00:00Z"
    assert data["problems"] == [{"path": "$.x", "message": "is wrong", "source": "mesh.yaml", "line": 3}]
    cart = data["meshlets"][0]
    assert (cart["namespace"], cart["name"], cart["observedGeneration"]) == ("shop", "cart", 4)
    assert cart["conditions"][0] == {
        "type": "Accepted",
        "status": "True",
        "reason": "Valid",
        "message": "",
        "lastTransitionTime": "1970-01-01T00:01:40Z",
    }


def test_pods_of_a_meshlet_that_nobody_declares_are_orphans_and_those_of_a_wrong_one_are_not() -> None:
    wrong = {**meshlet(nonsense=1), "metadata": {"namespace": "shop", "name": "db"}}
    pods = [pod("a"), pod("b", meshlet="crat"), pod("c", meshlet="crat"), pod("d", meshlet="db")]
    objects = [meshlet(server=SERVER), wrong, *pods]
    world = ObjectMemory().update(DiscoverySnapshot(objects, [""] * len(objects)))
    assert orphans(world) == {MeshletRef("shop", "crat"): (PodRef("shop", "b"), PodRef("shop", "c"))}
    status = json.loads(ReconcilerStatus(orphans=orphans(world)).to_json())
    assert status["orphans"] == [{"namespace": "shop", "meshlet": "crat", "pods": ["b", "c"]}]
