from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner

from meshless_core.agent.admin import Answer
from meshless_core.cli.main import main

ROWS = [
    {"step": "policy", "subject": "policy_declared", "outcome": "allow", "reason": "it is declared"},
    {"step": "verdict", "subject": "http.cart.shop", "outcome": "OK", "reason": "allowed"},
]
ALLOWED = {"code": 0, "codeName": "OK", "rows": ROWS}
REFUSED = {"code": 4, "codeName": "ACCESS_DENIED", "rows": ROWS}
ELSEWHERE = Answer.text("pod shop/web is not on node node-b", 404)
STATUS = {"pods": [{"namespace": "shop", "name": "web"}]}


def explain(admin: Any, *arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(main, ["explain", *arguments, "--run-dir", str(admin.run)])
    return done.exit_code, done.stdout, done.stderr


def test_the_agent_that_has_the_pod_explains_wherever_it_is(admin: Any) -> None:
    admin.serve("node-a", {"/explain": ELSEWHERE})
    admin.serve("node-b", {"/explain": ALLOWED})
    code, out, _ = explain(admin, "shop/web", "http.cart.shop")
    assert code == 0
    first, second, third = out.splitlines()
    assert first.split() == ["STEP", "SUBJECT", "OUTCOME", "REASON"]
    assert second.split(maxsplit=3) == ["policy", "policy_declared", "allow", "it is declared"]
    assert third.startswith("verdict")


def test_a_silent_agent_does_not_matter_if_another_has_the_pod(admin: Any) -> None:
    admin.silent("node-a")
    admin.serve("node-b", {"/explain": REFUSED})
    assert explain(admin, "web", "http.cart.shop", "-n", "shop")[0] == 1


def test_json_holds_the_whole_chain(admin: Any) -> None:
    admin.serve("node-a", {"/explain": REFUSED})
    code, out, _ = explain(admin, "shop/web", "http.cart.shop", "--output", "json")
    assert (code, json.loads(out)) == (1, REFUSED)


def test_an_unknown_pod_is_2_and_near_names_are_offered(admin: Any) -> None:
    admin.serve("node-a", {"/explain": ELSEWHERE, "/status": STATUS})
    code, _, err = explain(admin, "shop/wep", "http.cart.shop")
    assert (code, err) == (2, "error: no agent has a pod shop/wep: did you mean shop/web\n")
    code, _, err = explain(admin, "elsewhere/thing", "http.cart.shop")
    assert (code, "there are shop/web" in err) == (2, True)


def test_a_pod_that_may_be_on_a_silent_node_is_3(admin: Any) -> None:
    admin.serve("node-a", {"/explain": ELSEWHERE, "/status": STATUS})
    admin.silent("node-b")
    code, _, err = explain(admin, "shop/web", "http.cart.shop")
    assert code == 3
    assert "no agent answers" in err
    assert "is on none of the other nodes" in err


def test_an_agent_without_documents_is_3_and_a_failing_one_is_not_taken_for_unknown(admin: Any) -> None:
    admin.serve("node-a", {"/explain": Answer.text("this agent has no documents yet", 503)})
    code, _, err = explain(admin, "shop/web", "http.cart.shop")
    assert (code, "no documents yet" in err) == (3, True)
    admin.serve("node-a", {"/explain": Answer.text("internal error", 500)})
    assert explain(admin, "shop/web", "http.cart.shop")[0] == 1


@pytest.mark.parametrize("arguments", [("shop/web", "http.cart"), ("Shop/web", "http.cart.shop"), ("shop/", "http.cart.shop")])
def test_what_is_no_pod_or_service_id_is_2_before_anybody_is_asked(admin: Any, arguments: tuple[str, str]) -> None:
    code, _, err = explain(admin, *arguments)
    assert (code, "write <" in err) == (2, True)


def test_no_mesh_is_3(admin: Any) -> None:
    assert explain(admin, "shop/web", "http.cart.shop")[0] == 3


def test_what_is_no_agent_is_said_to_be_none(admin: Any) -> None:
    admin.serve("node-a", {"/explain": Answer.text("hello", 200)})
    code, _, err = explain(admin, "shop/web", "http.cart.shop")
    assert (code, "is no agent" in err) == (3, True)
