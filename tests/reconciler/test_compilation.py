"""Compilation is a pure function of the world: who gets which document, with what in it."""

import random
from typing import Any

from meshless_core.documents import MeshletDocument, PodPlacement, ServiceDocument, VersionWeight
from meshless_core.documents_codec import decode_document, encode_document, make_document, topic_of
from meshless_core.hookspecs import DiscoverySnapshot
from meshless_core.reconciler.compilation import Desired, NodeNeeds, compile_documents
from meshless_core.reconciler.world import ObjectMemory, World
from meshless_core.types import Endpoint, MeshletRef, PodRef, ServiceId

NODES = {"node-a": "127.0.0.1:7001", "node-b": "127.0.0.1:7002"}
CART, WEB, HTTP = MeshletRef("shop", "cart"), MeshletRef("shop", "web"), ServiceId("http", "cart", "shop")


def meshlet(name: str, namespace: str = "shop", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "meshless.dev/v1",
        "kind": "Meshlet",
        "metadata": {"namespace": namespace, "name": name},
        "spec": spec,
    }


def pod(name: str, node: str | None = "node-a", namespace: str = "shop", status: Any = None, **labels: str) -> dict[str, Any]:
    labels = {key.replace("meshlet", "meshless/meshlet"): value for key, value in labels.items()}
    return {
        "kind": "Pod",
        "metadata": {"namespace": namespace, "name": name, "uid": f"u-{name}", "labels": labels},
        "spec": {"nodeName": node},
        "status": status,
    }


USE: dict[str, Any] = {"client": [{"namespace": "shop", "meshlet": "cart", "service": "http"}]}
SERVE: dict[str, Any] = {
    "server": {"selector": {"app": "cart"}, "services": [{"name": "http", "maxConn": 3, "idleTimeout": "1m"}]}
}


def world(*objects: dict[str, Any]) -> World:
    made = ObjectMemory().update(DiscoverySnapshot(objects, [""] * len(objects)))
    assert made.problems == ()
    return made


SHOP = (
    meshlet("cart", **SERVE),
    meshlet("web", **USE),
    pod("cart-0", "node-a", app="cart", meshlet="cart", version="v1"),
    pod("cart-1", "node-b", app="cart", meshlet="cart"),
    pod("web-0", "node-b", meshlet="web"),
)


def service(desired: Desired) -> ServiceDocument:
    body = desired.documents["service/shop/cart/http"]
    assert isinstance(body, ServiceDocument)
    return body


def test_a_service_document_has_all_that_connecting_and_serving_need() -> None:
    assert service(compile_documents(world(*SHOP), NODES)) == ServiceDocument(
        service=HTTP,
        declared_by=(WEB,),
        allow=None,
        max_conn=3,
        idle_timeout_ns=60_000_000_000,
        proxy_protocol=None,
        canary=None,
        endpoints=(
            Endpoint(PodRef("shop", "cart-0"), "u-cart-0", "node-a", "127.0.0.1:7001", "v1", True),
            Endpoint(PodRef("shop", "cart-1"), "u-cart-1", "node-b", "127.0.0.1:7002", None, True),
        ),
    )


def test_a_meshlet_document_lists_what_it_uses_and_provides() -> None:
    documents = compile_documents(world(*SHOP), NODES).documents
    assert documents["meshlet/shop/web"] == MeshletDocument(WEB, (HTTP,), ())
    assert documents["meshlet/shop/cart"] == MeshletDocument(CART, (), ("http",))


def test_a_node_needs_exactly_what_its_pods_need() -> None:
    desired = compile_documents(world(*SHOP, meshlet("other", **SERVE), pod("alone", "node-a", app="x")), NODES)
    assert desired.needs["node-a"] == NodeNeeds(
        (PodPlacement(PodRef("shop", "cart-0"), "u-cart-0", CART, "v1"),), ("meshlet/shop/cart", "service/shop/cart/http")
    )
    assert desired.needs["node-b"].topics == ("meshlet/shop/cart", "meshlet/shop/web", "service/shop/cart/http")
    assert "service/shop/other/http" in desired.documents


def test_a_node_without_pods_has_needs_too_so_that_its_agent_knows() -> None:
    assert compile_documents(world(), NODES).needs == {"node-a": NodeNeeds((), ()), "node-b": NodeNeeds((), ())}


def test_an_unknown_target_is_used_but_no_topic_of_it_is_needed() -> None:
    desired = compile_documents(world(meshlet("web", **USE), pod("web-0", meshlet="web")), NODES)
    assert desired.documents == {"meshlet/shop/web": MeshletDocument(WEB, (HTTP,), ())}
    assert desired.needs["node-a"].topics == ("meshlet/shop/web",)
    assert desired.findings[WEB].missing_targets == (HTTP,)


def test_a_pod_of_a_meshlet_that_does_not_exist_is_listed_without_one() -> None:
    needs = compile_documents(world(pod("lost-0", meshlet="nobody")), NODES).needs["node-a"]
    assert needs == NodeNeeds((PodPlacement(PodRef("shop", "lost-0"), "u-lost-0", None, None),), ())


def test_an_endpoint_needs_the_selector_and_the_label_and_the_namespace() -> None:
    desired = compile_documents(
        world(
            *SHOP[:2],
            pod("both", app="cart", meshlet="cart"),
            pod("label-only", app="job", meshlet="cart"),
            pod("selector-only", app="cart", meshlet="web"),
            pod("unlabelled", app="cart"),
            pod("elsewhere", namespace="other", app="cart", meshlet="cart"),
        ),
        NODES,
    )
    assert [endpoint.pod.name for endpoint in service(desired).endpoints] == ["both"]
    assert desired.findings[CART].strangers == (PodRef("shop", "selector-only"), PodRef("shop", "unlabelled"))
    assert desired.findings[CART].not_selected == (PodRef("shop", "label-only"),)
    placed = [placement.pod.name for placement in desired.needs["node-a"].pods]
    assert placed == ["elsewhere", "both", "label-only", "selector-only"]


def test_without_a_selector_the_label_alone_says_who_serves() -> None:
    desired = compile_documents(
        world(meshlet("cart", server={"services": [{"name": "http"}]}), pod("any", meshlet="cart"), pod("none")), NODES
    )
    assert [endpoint.pod.name for endpoint in service(desired).endpoints] == ["any"]
    assert desired.findings[CART].strangers == ()


def test_a_pod_on_no_node_of_the_mesh_is_no_endpoint_and_told() -> None:
    desired = compile_documents(
        world(SHOP[0], pod("far", "node-z", app="cart", meshlet="cart"), pod("new", None, app="cart", meshlet="cart")), NODES
    )
    assert service(desired).endpoints == ()
    assert desired.findings[CART].unplaced == ((PodRef("shop", "far"), "node-z"), (PodRef("shop", "new"), None))


def test_a_finished_pod_is_gone_and_an_unready_one_stays_as_unready() -> None:
    down = {"conditions": [{"type": "Ready", "status": "False"}]}
    desired = compile_documents(
        world(
            SHOP[0],
            pod("done", status={"phase": "Failed"}, app="cart", meshlet="cart"),
            pod("down", status=down, app="cart", meshlet="cart"),
        ),
        NODES,
    )
    assert [(endpoint.pod.name, endpoint.ready) for endpoint in service(desired).endpoints] == [("down", False)]
    assert [placement.pod.name for placement in desired.needs["node-a"].pods] == ["down"]


def test_an_override_beats_the_status_both_ways() -> None:
    down = {"conditions": [{"type": "Ready", "status": "False"}]}
    made = world(SHOP[0], pod("a", app="cart", meshlet="cart"), pod("b", status=down, app="cart", meshlet="cart"))
    overrides = {PodRef("shop", "a"): False, PodRef("shop", "b"): True}
    endpoints = service(compile_documents(made, NODES, overrides)).endpoints
    assert [(endpoint.pod.name, endpoint.ready) for endpoint in endpoints] == [("a", False), ("b", True)]


def test_the_canary_strategy_and_what_it_misses_are_told() -> None:
    lines = [{"version": "v1", "weight": 9}, {"version": "v2", "weight": 1}, {"version": "v0", "weight": 0}]
    server = {**SERVE["server"], "canary": lines}
    desired = compile_documents(
        world(
            meshlet("cart", server=server),
            pod("a", app="cart", meshlet="cart", version="v1"),
            pod("b", app="cart", meshlet="cart", version="v9"),
            pod("c", app="cart", meshlet="cart"),
        ),
        NODES,
    )
    assert service(desired).canary == (VersionWeight("v1", 9), VersionWeight("v2", 1), VersionWeight("v0", 0))
    assert desired.findings[CART].unavailable_versions == ("v2",)
    assert desired.findings[CART].unlisted_versions == ("", "v9")


def test_consent_is_kept_apart_from_declaration() -> None:
    server = {"services": [{"name": "http", "allow": [{"namespace": "shop", "meshlet": "admin"}]}]}
    body = service(compile_documents(world(meshlet("cart", server=server), meshlet("web", **USE)), NODES))
    assert body.allow == (MeshletRef("shop", "admin"),)
    assert body.declared_by == (WEB,)


def test_the_order_of_the_objects_changes_nothing() -> None:
    objects = [
        *SHOP,
        *(meshlet(f"m{number}", **USE) for number in range(5)),
        *(pod(f"p{number}", meshlet="m1") for number in range(5)),
    ]
    expected = compile_documents(world(*objects), NODES)
    for seed in range(5):
        random.Random(seed).shuffle(objects)
        again = compile_documents(world(*objects), dict(reversed(NODES.items())))
        assert again == expected
        assert list(again.documents) == list(expected.documents)


def test_everything_compiled_can_be_published_under_its_topic() -> None:
    desired = compile_documents(world(*SHOP), NODES)
    for topic, body in desired.documents.items():
        assert topic_of(body) == topic
        document = make_document(body, epoch=1, generation=1)
        assert decode_document(topic, encode_document(document)).body == body
