from __future__ import annotations

from typing import Any

import pytest

from meshless_core.documents import MeshletDocument, NodeManifest, PodPlacement, TopicState, meshlet_topic, service_topic
from meshless_core.routing import Refusal, Route, compile_routes, not_served, resolve
from meshless_core.types import Decision, MeshletRef, PodRef, ReplyCode, ServiceId, Verdict

ALLOW = Decision(Verdict.ALLOW, "test", "fine")
DENY = Decision(Verdict.DENY, "test/no", "shop/web may not")
GHOST = ServiceId("ghost", "cart", "shop")


def refuse(*question: Any) -> Refusal:
    answer = resolve(*question)
    assert isinstance(answer, Refusal)
    return answer


def test_an_allowed_connection_gets_the_route(world) -> None:
    table = world.table(world.client(), world.service(world.endpoint("a")))
    assert resolve(table, world.web, world.http, ALLOW) is table.route(world.http)


def test_denied_beats_not_found_so_nobody_learns_what_exists(world) -> None:
    table = world.table(world.client(), world.service(world.endpoint("a")))
    known, unknown = (resolve(table, world.web, target, DENY) for target in (world.http, GHOST))
    assert known == unknown == Refusal(ReplyCode.ACCESS_DENIED, "test/no", "shop/web may not")


def test_denied_beats_no_endpoint(world) -> None:
    table = world.table(world.client(), world.service())
    assert refuse(table, world.web, world.http, DENY).code is ReplyCode.ACCESS_DENIED


@pytest.mark.parametrize("decision", [None, Decision(Verdict.ABSTAIN, "test", "not mine")])
def test_anything_but_an_allow_is_a_denial(world, decision: Decision | None) -> None:
    table = world.table(world.client(), world.service(world.endpoint("a")))
    assert refuse(table, world.web, world.http, decision).code is ReplyCode.ACCESS_DENIED


@pytest.mark.parametrize("source", [None, MeshletRef("shop", "nobody")])
def test_a_pod_of_no_known_meshlet_is_an_unknown_client_before_anything_else(world, source: MeshletRef | None) -> None:
    table = world.table(world.client(), world.service(world.endpoint("a")))
    for decision in (ALLOW, DENY, None):
        assert refuse(table, source, world.http, decision).code is ReplyCode.UNKNOWN_CLIENT


def test_an_unknown_service_is_not_found_naming_the_meshlet_that_should_provide_it(world) -> None:
    refusal = refuse(world.table(world.client()), world.web, GHOST, ALLOW)
    assert refusal.code is ReplyCode.SERVICE_NOT_FOUND
    assert refusal.reason == "service ghost.cart.shop is not known: add it to spec.server.services of meshlet shop/cart"


@pytest.mark.parametrize(
    ("pods", "canary", "hint"),
    [
        ([], None, "has no pod: check the selector of meshlet shop/cart"),
        ([("a", "v1", False)], None, "no ready pod, 1 not ready"),
        ([("a", "v1", False), ("b", "v2", True)], {"v1": 1, "v2": 0}, "(v1=1, v2=0)"),
        ([("a", "v9", True)], {"v1": 1}, "(v1=1)"),
    ],
)
def test_no_usable_pod_is_no_endpoint_and_says_why(world, pods, canary, hint: str) -> None:
    endpoints = [world.endpoint(name, version, ready=ready) for name, version, ready in pods]
    refusal = refuse(world.table(world.client(), world.service(*endpoints, canary=canary)), world.web, world.http, ALLOW)
    assert refusal.code is ReplyCode.NO_ENDPOINT
    assert hint in refusal.reason


def test_on_the_server_side_the_clients_document_and_readiness_are_not_needed(world) -> None:
    table = world.table(world.service(world.endpoint("a", ready=False)))
    assert isinstance(resolve(table, world.web, world.http, ALLOW, "server"), Route)
    assert refuse(table, world.web, world.http, DENY, "server").code is ReplyCode.ACCESS_DENIED
    assert refuse(table, world.web, GHOST, ALLOW, "server").code is ReplyCode.SERVICE_NOT_FOUND


def test_what_the_manifest_announces_but_has_not_arrived_is_not_ready_rather_than_not_found() -> None:
    source, target = MeshletRef("shop", "web"), ServiceId("http", "cart", "shop")
    state = TopicState(1, "sha256:" + "0" * 64)
    empty = compile_routes("node-a", [NodeManifest("node-a", (), {meshlet_topic(source): state})])
    assert refuse(empty, source, target, None).code is ReplyCode.NOT_READY
    known = MeshletDocument(source, (target,), ())
    table = compile_routes("node-a", [known, NodeManifest("node-a", (), {service_topic(target): state})])
    allow = Decision(Verdict.ALLOW, "test", "")
    assert refuse(table, source, target, allow).code is ReplyCode.NOT_READY


def test_the_agent_beside_a_pod_judges_for_pods_of_its_node_only(world) -> None:
    here, gone = PodRef("shop", "a"), PodRef("shop", "b")
    pods = (PodPlacement(here, "uid-a", None, None),)
    held = compile_routes(world.here, [world.service(world.endpoint("a"))])
    assert not_served(held, world.http, gone) is None
    dropped = compile_routes(world.here, [NodeManifest(world.here, pods, {})])
    assert not_served(dropped, world.http, here) is None, "its Meshlet is gone, or serves this no more: a matter of policy"
    assert not_served(dropped, world.http, gone) == Refusal(
        ReplyCode.NO_ENDPOINT, "routing", f"pod shop/b is not on node {world.here} any more"
    )
    announced = {service_topic(world.http): TopicState(1, "sha256:" + "0" * 64)}
    late = not_served(compile_routes(world.here, [NodeManifest(world.here, pods, announced)]), world.http, here)
    assert late == Refusal(ReplyCode.NOT_READY, "routing", "the document of service http.cart.shop has not arrived yet")
