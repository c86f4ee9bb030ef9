from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshless_core.documents import Document, NodeManifest, ServiceDocument, manifest_topic, service_topic
from meshless_core.routing import ExclusionCause, Revision, Route, RoutingTable, compile_routes
from meshless_core.types import Endpoint, MeshletRef, PodRef, ServiceId, VersionShare

versions = st.sampled_from(["v1", "v2", "v3"])
endpoint_lists = st.lists(
    st.builds(
        lambda number, version, ready, node: Endpoint(PodRef("shop", f"p{number}"), f"u{number}", node, "h:1", version, ready),
        st.integers(0, 30),
        st.none() | versions,
        st.booleans(),
        st.sampled_from(["node-1", "node-2"]),
    ),
    max_size=12,
    unique_by=lambda endpoint: endpoint.uid,
)
strategies = st.none() | st.dictionaries(versions, st.integers(0, 100), min_size=1)


@given(endpoints=endpoint_lists, canary=strategies)
def test_a_share_is_offered_exactly_if_it_has_weight_and_a_ready_pod(world, endpoints, canary) -> None:
    route = world.table(world.service(*endpoints, canary=canary)).route(world.http)
    ready = [endpoint for endpoint in endpoints if endpoint.ready]
    if canary is None:
        assert route.shares == ((VersionShare(None, 1, len(ready)),) if ready else ())
    else:
        expected = {v: (w, sum(e.version == v for e in ready)) for v, w in canary.items() if w >= 1}
        assert {s.version: (s.weight, s.ready) for s in route.shares} == {v: o for v, o in expected.items() if o[1]}
    assert {share.version: share.ready for share in route.shares} == {v: len(group) for v, group in route.groups.items()}


@given(endpoints=endpoint_lists, canary=strategies)
def test_every_endpoint_is_either_in_one_group_or_excluded_with_a_reason(world, endpoints, canary) -> None:
    route = world.table(world.service(*endpoints, canary=canary)).route(world.http)
    grouped = [endpoint for group in route.groups.values() for endpoint in group]
    excluded = [exclusion.endpoint for exclusion in route.excluded if exclusion.endpoint is not None]
    assert sorted(endpoint.uid for endpoint in [*grouped, *excluded]) == sorted(endpoint.uid for endpoint in endpoints)
    assert all(exclusion.detail for exclusion in route.excluded)


@given(endpoints=endpoint_lists, canary=st.dictionaries(versions, st.integers(0, 100), min_size=2))
def test_spilling_keeps_the_proportions_of_what_is_left(world, endpoints, canary) -> None:
    route = world.table(world.service(*endpoints, canary=canary)).route(world.http)
    for one in route.shares:
        for other in route.shares:
            assert one.weight * canary[other.version] == other.weight * canary[one.version]


def test_weight_zero_gets_nothing_even_if_nobody_else_is_ready(world) -> None:
    service = world.service(world.endpoint("a", "v1", ready=False), world.endpoint("b", "v2"), canary={"v1": 1, "v2": 0})
    route = world.table(service).route(world.http)
    assert route.shares == ()
    assert not route.groups


def test_versions_left_out_say_whether_they_spill_or_have_nothing_to_spill(world) -> None:
    service = world.service(world.endpoint("a", "v1"), canary={"v1": 1, "v2": 1, "v3": 0})
    route = world.table(service).route(world.http)
    assert {exclusion.version: exclusion.detail for exclusion in route.excluded} == {
        "v2": "version v2 has no ready pod: its share goes to the other versions",
        "v3": "version v3 gets no new connections: version v3 has weight 0 in spec.server.canary",
    }


def test_a_version_the_strategy_does_not_list_gets_nothing(world) -> None:
    service = world.service(
        world.endpoint("a", "v1"), world.endpoint("b", "v9"), world.endpoint("c", ready=False), canary={"v1": 1}
    )
    route = world.table(service).route(world.http)
    assert [share.version for share in route.shares] == ["v1"]
    unlisted = [exclusion for exclusion in route.excluded if exclusion.cause is ExclusionCause.VERSION_NOT_LISTED]
    assert {exclusion.endpoint.pod.name: exclusion.detail for exclusion in unlisted} == {
        "b": "pod shop/b is of version v9, which spec.server.canary does not list: add it for a share",
        "c": "pod shop/c is without a version label, which spec.server.canary does not list, and is not ready: "
        "add it for a share",
    }


def test_without_a_strategy_all_ready_pods_are_equal_whatever_their_version(world) -> None:
    service = world.service(*(world.endpoint(f"a{n}", "v1") for n in range(9)), world.endpoint("b", "v2"), world.endpoint("c"))
    route = world.table(service).route(world.http)
    assert route.shares == (VersionShare(None, 1, 11),)
    assert len(route.groups[None].local) == 11


def test_an_empty_strategy_is_no_strategy(world) -> None:
    route = world.table(world.service(world.endpoint("a", "v1"), canary={})).route(world.http)
    assert route.canary is None
    assert route.shares == (VersionShare(None, 1, 1),)


def test_a_pin_without_a_strategy_finds_its_version_and_pods_stay_equal(world) -> None:
    service = world.service(
        world.endpoint("a1", "v1"), world.endpoint("a2", "v1"), world.endpoint("b", "v2"), world.endpoint("c")
    )
    route = world.table(service).route(world.http)
    pinned = route.for_wishes(None, "v2")
    assert set(pinned.shares) == {VersionShare("v1", 2, 2), VersionShare("v2", 1, 1), VersionShare(None, 1, 1)}
    assert [endpoint.pod.name for endpoint in pinned.groups["v2"]] == ["b"]
    assert route.for_wishes(b"key", None) is pinned
    assert route.for_wishes(None, "v9") is route
    assert route.for_wishes(None, None) is route


def test_with_a_strategy_wishes_choose_among_its_shares(world) -> None:
    route = world.table(world.service(world.endpoint("a", "v1"), canary={"v1": 1})).route(world.http)
    assert route.for_wishes(b"key", "v1") is route


def test_groups_tell_this_node_from_the_others(world) -> None:
    near, far = world.endpoint("near"), world.endpoint("far", node=world.there)
    group = world.table(world.service(far, near)).route(world.http).groups[None]
    assert (group.local, group.remote) == ((near,), (far,))


def test_the_server_side_finds_its_own_pods_ready_or_not(world) -> None:
    near, far = world.endpoint("near", ready=False), world.endpoint("far", node=world.there)
    assert world.table(world.service(near, far)).route(world.http).local_pods == {near.pod: near}


@pytest.mark.parametrize(("nanoseconds", "seconds"), [(None, None), (0, None), (60_000_000_000, 60.0), (1_500_000, 0.0015)])
def test_idle_timeout_is_in_seconds_and_zero_means_none(world, nanoseconds: int | None, seconds: float | None) -> None:
    assert world.table(world.service(idle_timeout_ns=nanoseconds)).route(world.http).idle_timeout == seconds


def test_lookup_by_text_and_by_id_agree_and_unknown_names_are_none(world) -> None:
    table = world.table(world.service(), world.client())
    assert table.route_for("http.cart.shop") is table.route(world.http) is not None
    assert table.route_for("nothing.cart.shop") is table.route(ServiceId("nothing", "cart", "shop")) is None
    assert table.meshlet(world.web) == world.client()
    assert table.meshlet(MeshletRef("shop", "nobody")) is table.uses(MeshletRef("shop", "nobody")) is None


def route_of(table: RoutingTable, service: ServiceId) -> Route:
    route = table.route(service)
    assert route is not None
    return route


def enveloped(service: ServiceDocument, epoch: int, generation: int) -> Document:
    return Document(service_topic(service.service), epoch, generation, "sha256:00", service)


def test_the_highest_revision_of_a_topic_counts_in_any_order(world) -> None:
    documents = [enveloped(world.service(max_conn=n), *age) for n, age in enumerate([(1, 9), (2, 1), (1, 10)])]
    for order in (documents, documents[::-1]):
        table = compile_routes("node-1", order)
        assert route_of(table, world.http).max_conn == 1
        assert table.revisions == {"service/shop/cart/http": Revision(2, 1)}


def test_an_envelope_beats_a_bare_body(world) -> None:
    table = compile_routes("node-1", [enveloped(world.service(max_conn=1), 0, 0), world.service(max_conn=2)])
    assert route_of(table, world.http).max_conn == 1
    assert route_of(compile_routes("node-1", [world.service(max_conn=1), world.service(max_conn=2)]), world.http).max_conn == 2


def test_manifests_are_passed_over(world) -> None:
    manifest = NodeManifest("node-1", (), {})
    table = compile_routes("node-1", [manifest, Document(manifest_topic("node-1"), 1, 1, "sha256:00", manifest)])
    assert (len(table.routes), len(table.meshlets), table.revisions) == (0, 0, {})


def test_recompiling_takes_over_what_did_not_change(world) -> None:
    same, changed = world.service(world.endpoint("a")), world.service(service=ServiceId("grpc", "cart", "shop"))
    before = compile_routes("node-1", [same, changed])
    after = compile_routes("node-1", [same, attrs.evolve(changed, max_conn=3)], before)
    assert after.route(world.http) is before.route(world.http)
    assert route_of(after, changed.service).max_conn == 3
    elsewhere = compile_routes("node-2", [same], before)
    assert route_of(elsewhere, world.http).groups[None].local == ()


def test_an_endpoint_listed_twice_counts_once(world) -> None:
    route = world.table(world.service(world.endpoint("a"), world.endpoint("a"))).route(world.http)
    assert route.shares[0].ready == len(route.groups[None]) == 1


def test_all_endpoints_of_all_services_can_be_walked(world) -> None:
    table = world.table(
        world.service(world.endpoint("a", ready=False)),
        world.service(world.endpoint("b"), service=ServiceId("grpc", "cart", "shop")),
    )
    assert {endpoint.pod.name for endpoint in table.endpoints()} == {"a", "b"}
