from __future__ import annotations

import json
import random

import pytest

from meshless_core.routing import Balancer, Explanation, RoutingTable, explain
from meshless_core.types import Decision, PodRef, ReplyCode, ServiceId, Verdict

ALLOW = Decision(Verdict.ALLOW, "policy_declared/declaration", "shop/web lists it")
DENY = Decision(Verdict.DENY, "quarantine", "shop/web is in quarantine")
POD = PodRef("shop", "web-0")


@pytest.fixture
def balancer() -> Balancer:
    return Balancer(random.Random(5).random)


@pytest.fixture
def table(world) -> RoutingTable:
    table: RoutingTable = world.table(
        world.client(),
        world.service(
            world.endpoint("a", "v1"),
            world.endpoint("b", "v1", node=world.there),
            world.endpoint("c", "v1", ready=False),
            world.endpoint("d", "v3", ready=False),
            world.endpoint("e", "v9"),
            world.endpoint("f", "v4"),
            canary={"v1": 60, "v2": 20, "v3": 20, "v4": 0},
        ),
    )
    return table


def explained(world, table: RoutingTable, balancer: Balancer, *decisions: Decision) -> Explanation:
    return explain(table, world.web, POD, world.http, decisions, balancer, now=0.0, selector="by_weight")


def test_the_chain_names_every_policy_and_who_won(world, table, balancer) -> None:
    chain = explained(world, table, balancer, ALLOW, DENY)
    assert (chain.code, chain.policy, chain.reason) == (ReplyCode.ACCESS_DENIED, "quarantine", "shop/web is in quarantine")
    assert [(row.subject, row.outcome) for row in chain.rows() if row.step in ("policy", "decision")] == [
        ("policy_declared/declaration", "allow"),
        ("quarantine", "deny"),
        ("quarantine", "deny"),
    ]


def test_a_denied_chain_does_not_show_the_routes(world, table, balancer) -> None:
    chain = explained(world, table, balancer, DENY)
    assert (chain.shares, chain.candidates) == ((), ())


def test_shares_tell_what_was_declared_what_is_and_why(world, table, balancer) -> None:
    shares = {share.version: share for share in explained(world, table, balancer, ALLOW).shares}
    assert {v: (s.weight, s.ready, s.declared, s.effective) for v, s in shares.items()} == {
        "v1": (60, 2, 0.6, 1.0),
        "v2": (20, 0, 0.2, 0.0),
        "v3": (20, 0, 0.2, 0.0),
        "v4": (0, 1, 0.0, 0.0),
    }
    assert shares["v1"].note == "takes over from versions without ready pods"
    assert shares["v2"].note == "no ready pod: its share goes to the other versions"
    assert shares["v4"].note == "weight 0: no new connections"


def test_each_endpoint_has_its_rank_or_why_it_has_none(world, table, balancer) -> None:
    candidates = {candidate.endpoint.pod.name: candidate for candidate in explained(world, table, balancer, ALLOW).candidates}
    assert {name: candidate.rank for name, candidate in candidates.items()} == {"a": 1, "b": 2, "c": 0, "d": 0, "e": 0, "f": 0}
    assert "same node" in candidates["a"].reason
    assert "node node-2" in candidates["b"].reason
    assert candidates["c"].reason == "pod shop/c is not ready"
    assert "does not list" in candidates["e"].reason
    assert "weight 0" in candidates["f"].reason


def test_an_ejected_endpoint_is_ranked_last_and_says_for_how_long(world, table, balancer) -> None:
    balancer.on_failed(table.route(world.http).groups["v1"].local[0], now=0.0)
    candidates = {candidate.endpoint.pod.name: candidate for candidate in explained(world, table, balancer, ALLOW).candidates}
    assert (candidates["b"].rank, candidates["a"].rank) == (1, 2)
    assert "ejected for 1.0 s more, failures in a row: 1" in candidates["a"].reason


def test_the_ranking_is_the_order_connections_really_get(world, balancer) -> None:
    pods = [
        world.endpoint(name, node=node) for name, node in [("a", "node-1"), ("b", "node-1"), ("c", "node-2"), ("d", "node-2")]
    ]
    table = world.table(world.client(), world.service(*pods))
    balancer.on_opened(pods[0])
    balancer.on_opened(pods[2])
    balancer.on_failed(pods[1], 0.0)
    ranked = [candidate.endpoint for candidate in explained(world, table, balancer, ALLOW).candidates]
    assert ranked == list(balancer.order(table.route(world.http).groups[None], 0.0))
    assert [endpoint.pod.name for endpoint in ranked] == ["a", "d", "c", "b"]


def test_no_endpoint_is_explained_pod_by_pod(world, balancer) -> None:
    table = world.table(world.client(), world.service(world.endpoint("a", ready=False)))
    chain = explained(world, table, balancer, ALLOW)
    assert chain.code is ReplyCode.NO_ENDPOINT
    assert [candidate.reason for candidate in chain.candidates] == ["pod shop/a is not ready"]


def test_nobody_answering_is_shown_as_the_default_denial(world, table, balancer) -> None:
    chain = explained(world, table, balancer)
    assert (chain.code, chain.policy) == (ReplyCode.ACCESS_DENIED, "default-deny")


def test_a_pod_of_no_meshlet_is_explained_too(world, table, balancer) -> None:
    chain = explain(table, None, POD, world.http, [], balancer, now=0.0, selector="by_weight")
    assert chain.code is ReplyCode.UNKNOWN_CLIENT
    assert [row.step for row in chain.rows()] == ["verdict"]
    assert chain.to_dict()["source"] is None


def test_an_unknown_service_is_explained_without_routes(world, table, balancer) -> None:
    chain = explain(table, world.web, POD, ServiceId("ghost", "cart", "shop"), [ALLOW], balancer, now=0.0, selector="by_weight")
    assert chain.code is ReplyCode.SERVICE_NOT_FOUND
    assert chain.candidates == ()


def test_rows_end_with_the_verdict_and_the_dict_is_strict_json(world, table, balancer) -> None:
    balancer.on_failed(table.route(world.http).groups["v1"].local[0], now=0.0)
    chain = explained(world, table, balancer, ALLOW)
    assert (chain.rows()[-1].step, chain.rows()[-1].outcome) == ("verdict", "OK")
    document = json.loads(json.dumps(chain.to_dict(), allow_nan=False))
    assert document["codeName"] == "OK"
    assert document["facts"] == {"exists": True, "declared": True, "consent": None, "side": "client"}
    assert document["candidates"][0]["pod"] == "shop/b"
    assert document["shares"][0] == {
        "version": "v1",
        "weight": 60,
        "ready": 2,
        "declared": 0.6,
        "effective": 1.0,
        "note": "takes over from versions without ready pods",
    }


def test_explaining_changes_nothing(world, table, balancer) -> None:
    explained(world, table, balancer, ALLOW)
    assert len(balancer) == 0


def test_the_chain_says_which_canary_selector_chooses_or_that_there_is_no_choice(world, table, balancer) -> None:
    rows = [row for row in explained(world, table, balancer, ALLOW).rows() if row.step == "canary"]
    assert [(row.subject, row.outcome) for row in rows] == [("by_weight", "not asked")], "only v1 is ready"
    both = world.table(
        world.client(),
        world.service(world.endpoint("a", "v1"), world.endpoint("b", "v2"), canary={"v1": 90, "v2": 10}),
    )
    chain = explained(world, both, balancer, ALLOW)
    assert [(row.subject, row.outcome) for row in chain.rows() if row.step == "canary"] == [("by_weight", "chooses")]
    assert chain.to_dict()["selector"] == "by_weight"
    assert not [row for row in explained(world, both, balancer, DENY).rows() if row.step == "canary"]
