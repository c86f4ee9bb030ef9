from __future__ import annotations

import copy
import re
from typing import Any

import pytest

from meshless_core.cli.checks import Finding, Level
from meshless_core.cli.checks.agents import LEAST_LEAF_SECONDS, check_agent, check_agreement

NOW = 1_000_000.0
RESYNC = 600.0
CART = "spiffe://mesh.local/ns/shop/meshlet/cart"
HEALTHY: dict[str, Any] = {
    "node": "node-a",
    "trust_domain": "mesh.local",
    "tunnel_address": "127.0.0.1:4000",
    "ready": True,
    "not_ready": [],
    "draining": False,
    "socketd_connected": True,
    "connections": 3,
    "documents": {"source": "bus", "connected": True, "age_seconds": 5.0, "topics": 4, "behind": [], "rejected": {}},
    "pods": [{"namespace": "shop", "name": "cart-0", "uid": "1", "meshlet": "cart", "version": "v1", "services": ["http"]}],
    "identities": [{"identity": CART, "held": True, "expires_at": NOW + 80_000, "problem": None}],
    "limits": {"max_connections": 100, "open_files": 1024},
    "plugins": [
        {"kind": "handshake", "name": "handshake_v1", "distribution": "meshless", "version": "1"},
        {"kind": "canary", "name": "canary_weighted", "distribution": "meshless-canary-weighted", "version": "1"},
    ],
}


def status(*path: Any, to: Any) -> dict[str, Any]:
    """The healthy status with one thing changed."""
    changed = copy.deepcopy(HEALTHY)
    target: Any = changed
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = to
    return changed


def wrong(of: dict[str, Any]) -> list[Finding]:
    return [one for one in check_agent(of, now=NOW, resync=RESYNC) if one.level is not Level.OK]


def test_a_healthy_agent_has_nothing_wrong_and_every_area_is_looked_at() -> None:
    findings = list(check_agent(HEALTHY, now=NOW, resync=RESYNC))
    assert {one.level for one in findings} == {Level.OK}
    assert [one.area for one in findings] == ["agent", "socketd", "documents", "identity", "limits"]


@pytest.mark.parametrize(
    ("changed", "area", "level", "text"),
    [
        (status("draining", to=True), "agent", Level.WARNING, "shutting down"),
        (status("socketd_connected", to=False), "socketd", Level.PROBLEM, "lost socketd"),
        (status("documents", "source", to="none"), "documents", Level.PROBLEM, "none"),
        (status("documents", "source", to="disk"), "documents", Level.WARNING, "came from the disk, confirmed 5 s ago"),
        (status("documents", "connected", to=False), "documents", Level.WARNING, "the bus is not there"),
        (status("documents", "age_seconds", to=2 * RESYNC + 60), "documents", Level.WARNING, "confirmed 21 min ago"),
        (
            status("documents", "rejected", to={"meshlet/shop/web": "torn"}),
            "documents",
            Level.PROBLEM,
            "meshlet/shop/web.*torn",
        ),
        (status("documents", "behind", to=["meshlet/shop/web"]), "documents", Level.WARNING, "meshlet/shop/web"),
        (status("identities", 0, "held", to=False), "identity", Level.PROBLEM, "no valid leaf"),
        (status("identities", 0, "expires_at", to=NOW), "identity", Level.PROBLEM, "expired"),
        (
            status("identities", 0, "expires_at", to=NOW + LEAST_LEAF_SECONDS - 1),
            "identity",
            Level.WARNING,
            "expires in 5 h 59 min",
        ),
        (status("identities", 0, "problem", to="issuer gone"), "identity", Level.WARNING, "renewal fails: issuer gone"),
        (status("limits", "open_files", to=299), "limits", Level.WARNING, "may need 300"),
    ],
)
def test_each_thing_that_is_wrong_is_found_alone_with_a_fix(
    changed: dict[str, Any], area: str, level: Level, text: str
) -> None:
    (found,) = wrong(changed)
    assert (found.area, found.level) == (area, level)
    assert re.search(text, found.message)
    assert found.fix


def test_each_reason_for_not_being_ready_is_a_problem_with_its_own_hint() -> None:
    reasons = ["documents: none yet; is the reconciler running", "socketd: no snapshot"]
    found = wrong({**status("not_ready", to=reasons), "ready": False})
    assert [(one.message, one.fix) for one in found] == [
        ("not ready: documents: none yet", "is the reconciler running"),
        ("not ready: socketd: no snapshot", "look at the agent's log"),
    ]


def test_a_leaf_just_above_the_limit_and_unlimited_files_are_fine() -> None:
    assert not wrong(status("identities", 0, "expires_at", to=NOW + LEAST_LEAF_SECONDS))
    assert not wrong(status("limits", "open_files", to=-1))
    assert not wrong(status("limits", "open_files", to=300))


def test_what_is_rejected_is_not_reported_as_behind_once_more() -> None:
    changed = status("documents", "rejected", to={"meshlet/shop/web": "torn"})
    changed["documents"]["behind"] = ["meshlet/shop/web"]
    assert len(wrong(changed)) == 1


@pytest.mark.parametrize(
    ("plugins", "text"),
    [
        (HEALTHY["plugins"][:1], "without canary canary_weighted 1"),
        ([*HEALTHY["plugins"], {"kind": "bus", "name": "x", "version": "2"}], "with bus x 2"),
        (
            [{**HEALTHY["plugins"][0], "version": "2"}, HEALTHY["plugins"][1]],
            "without handshake handshake_v1 1; with handshake handshake_v1 2",
        ),
        (HEALTHY["plugins"][::-1], "in another order"),
    ],
)
def test_agents_whose_plugins_differ_are_named_with_the_difference(plugins: Any, text: str) -> None:
    other = {**status("plugins", to=plugins), "node": "node-b"}
    (found,) = check_agreement([HEALTHY, other])
    assert (found.area, found.subject, found.level) == ("plugins", "node-b", Level.PROBLEM)
    assert "node-a" in found.message
    assert text in found.message


def test_agents_that_agree_are_one_finding_and_another_trust_domain_is_a_problem() -> None:
    (same,) = check_agreement([HEALTHY, {**HEALTHY, "node": "node-b"}])
    assert (same.level, same.message) == (Level.OK, "handshake_v1, canary_weighted")
    found = check_agreement([HEALTHY, {**HEALTHY, "node": "node-b", "trust_domain": "other.local"}])
    assert [(one.area, one.level) for one in found] == [("trust domain", Level.PROBLEM), ("plugins", Level.OK)]
    assert not list(check_agreement([]))
