"""Objects are validated one by one; a bad one is replaced by its own last good version."""

from typing import Any

import pytest

from meshless_core.errors import ValidationError
from meshless_core.hookspecs import DiscoverySnapshot
from meshless_core.reconciler.world import ObjectMemory, parse_pod
from meshless_core.types import MeshletRef, PodRef, ServiceId

CART = MeshletRef("shop", "cart")


def meshlet(name: str, **spec: Any) -> dict[str, Any]:
    return {"apiVersion": "meshless.dev/v1", "kind": "Meshlet", "metadata": {"namespace": "shop", "name": name}, "spec": spec}


def client(service: str) -> dict[str, Any]:
    return {"client": [{"namespace": "shop", "meshlet": "db", "service": service}]}


def pod(name: str, **metadata: Any) -> dict[str, Any]:
    labels = {"meshless/meshlet": "cart", "version": "v1"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": "shop", "name": name, "uid": f"u-{name}", "labels": labels, **metadata},
        "spec": {"nodeName": "node-a"},
    }


def snapshot(*objects: Any) -> DiscoverySnapshot:
    return DiscoverySnapshot(objects, tuple(f"mesh.yaml:{number}" for number in range(1, len(objects) + 1)))


def test_an_invalid_meshlet_keeps_its_last_good_version_and_the_others_are_unaffected() -> None:
    memory = ObjectMemory()
    memory.update(snapshot(meshlet("cart", **client("sql")), meshlet("web")))
    world = memory.update(snapshot(meshlet("cart", clinet=[]), meshlet("web", **client("sql"))))
    assert world.meshlets[CART].clients == (ServiceId("sql", "db", "shop"),)
    assert world.meshlets[MeshletRef("shop", "web")].clients == (ServiceId("sql", "db", "shop"),)
    assert "clinet" in str(world.rejected[CART][0])
    assert world.rejected[CART][0].source == "mesh.yaml:1"
    assert world.problems == world.rejected[CART]


def test_an_invalid_meshlet_without_a_good_version_is_not_in_force_but_told() -> None:
    world = ObjectMemory().update(snapshot(meshlet("cart", server={"services": 5})))
    assert world.meshlets == {}
    assert CART in world.rejected


def test_a_meshlet_that_is_gone_is_forgotten_even_if_it_comes_back_invalid() -> None:
    memory = ObjectMemory()
    memory.update(snapshot(meshlet("cart")))
    memory.update(snapshot())
    assert memory.update(snapshot(meshlet("cart", bad=1))).meshlets == {}


def test_two_meshlets_of_one_name_are_both_refused_and_the_last_good_stays() -> None:
    memory = ObjectMemory()
    memory.update(snapshot(meshlet("cart", **client("sql"))))
    world = memory.update(snapshot(meshlet("cart", **client("a")), meshlet("cart", **client("b"))))
    assert world.meshlets[CART].clients == (ServiceId("sql", "db", "shop"),)
    assert "declared more than once" in str(world.rejected[CART][0])


def test_what_was_good_survives_a_restart_during_a_typo() -> None:
    memory = ObjectMemory()
    memory.update(snapshot(meshlet("cart", **client("sql"))))
    restarted = ObjectMemory()
    restarted.restore([*memory.dump(), {"kind": "Meshlet"}, 5, meshlet("broken", bad=1)])
    world = restarted.update(snapshot(meshlet("cart", bad=1)))
    assert world.meshlets[CART].clients == (ServiceId("sql", "db", "shop"),)
    assert restarted.update(snapshot()).meshlets == {}


def test_other_kinds_are_nobodys_business() -> None:
    world = ObjectMemory().update(snapshot({"kind": "Service", "metadata": {"name": "x"}}, {"kind": 5}, {}))
    assert world.problems == ()
    assert world.pods == ()


@pytest.mark.parametrize(
    "raw", [{"kind": "Meshlet"}, {"kind": "Pod"}, {"kind": "Pod", "metadata": []}, {"kind": "Meshlet", "metadata": {"name": 5}}]
)
def test_an_object_without_a_name_is_a_problem(raw: dict[str, Any]) -> None:
    world = ObjectMemory().update(snapshot(raw))
    assert world.problems
    assert world.meshlets == {}
    assert world.pods == ()


def test_the_generation_of_the_api_is_observed() -> None:
    raw = meshlet("cart")
    raw["metadata"]["generation"] = 7
    assert ObjectMemory().update(snapshot(raw)).observed == {CART: 7}


def test_a_pod_is_read_with_its_labels() -> None:
    view = parse_pod(pod("cart-0"))
    assert (view.ref, view.uid, view.node, view.meshlet, view.version) == (
        PodRef("shop", "cart-0"),
        "u-cart-0",
        "node-a",
        CART,
        "v1",
    )
    assert view.ready
    assert not view.finished


@pytest.mark.parametrize(
    ("status", "ready"),
    [
        ({}, True),
        ({"conditions": [{"type": "Ready", "status": "True"}]}, True),
        ({"conditions": [{"type": "Ready", "status": "False"}]}, False),
        ({"conditions": [{"type": "Ready", "status": "Unknown"}]}, False),
        ({"phase": "Pending"}, False),
        ({"phase": "Running", "conditions": "nonsense"}, False),
    ],
)
def test_a_pod_is_ready_as_its_condition_says_and_without_any_status(status: dict[str, Any], ready: bool) -> None:
    assert parse_pod({**pod("cart-0"), "status": status}).ready is ready


def test_a_pod_that_is_being_deleted_is_not_ready_and_a_finished_one_says_so() -> None:
    assert not parse_pod(pod("cart-0", deletionTimestamp="2026-01-01T00:00:00Z")).ready
    assert parse_pod({**pod("cart-0"), "status": {"phase": "Succeeded"}}).finished


def test_an_empty_label_is_no_label() -> None:
    view = parse_pod(pod("cart-0", labels={"meshless/meshlet": "", "version": ""}))
    assert view.meshlet is None
    assert view.version is None


def test_a_bad_pod_tells_every_problem() -> None:
    bad = pod("Cart_0", uid=5, labels={"meshless/meshlet": "No!", "version": 1})
    with pytest.raises(ValidationError) as caught:
        parse_pod(bad, "mesh.yaml:9")
    text = str(caught.value)
    for part in ("$.metadata.name", "$.metadata.uid", 'labels["meshless/meshlet"]', 'labels["version"]', "mesh.yaml:9"):
        assert part in text
