from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshless_core.routing import DEFAULT_DENY, authorization_request, combine
from meshless_core.types import Decision, MeshletRef, PodRef, ServiceId, Verdict

decisions = st.lists(st.builds(Decision, st.sampled_from(Verdict), st.sampled_from("abc"), st.text(max_size=3)), max_size=5)
OTHER = MeshletRef("shop", "other")


@given(decisions=decisions)
def test_deny_wins_then_allow_and_silence_is_denied_whatever_the_order(decisions: list[Decision]) -> None:
    verdicts = {decision.verdict for decision in decisions}
    expected = Verdict.ALLOW if Verdict.ALLOW in verdicts and Verdict.DENY not in verdicts else Verdict.DENY
    assert {combine(order).verdict for order in itertools.permutations(decisions)} == {expected}


@given(decisions=decisions)
def test_the_combined_decision_is_one_of_those_given_or_the_default(decisions: list[Decision]) -> None:
    combined = combine(decisions)
    assert combined in decisions or combined.policy == DEFAULT_DENY


def test_nobody_asked_is_denied_with_a_fix() -> None:
    decision = combine([])
    assert (decision.verdict, decision.policy) == (Verdict.DENY, "default-deny")
    assert "plugins" in decision.reason


def test_everybody_abstaining_is_denied_naming_who_was_asked() -> None:
    decision = combine([Decision(Verdict.ABSTAIN, "quarantine", "not mine"), Decision(Verdict.ABSTAIN, "hours", "open")])
    assert (decision.verdict, decision.policy) == (Verdict.DENY, "default-deny")
    assert "quarantine, hours" in decision.reason


@pytest.mark.parametrize(
    ("side", "uses", "declared_by", "declared"),
    [
        # uses: None = no document of the client here; declared_by: None = no document of the service here
        ("client", True, True, True),
        ("client", True, None, True),
        ("client", True, False, False),
        ("client", False, True, False),
        ("client", False, None, False),
        ("client", None, True, False),
        ("client", None, None, False),
        ("server", True, True, True),
        ("server", None, True, True),
        ("server", False, True, False),
        ("server", True, False, False),
        ("server", None, False, False),
        ("server", True, None, False),
        ("server", None, None, False),
    ],
)
def test_declared_needs_the_sides_own_document_and_no_contradiction(
    world, side, uses: bool | None, declared_by: bool | None, declared: bool
) -> None:
    documents = []
    if uses is not None:
        documents.append(world.client(world.http if uses else ServiceId("sql", "db", "shop")))
    if declared_by is not None:
        documents.append(world.service(declared_by=(world.web,) if declared_by else (OTHER,)))
    request = authorization_request(world.table(*documents), world.web, None, world.http, side)
    assert request.declared is declared
    assert request.exists is (declared_by is not None)


@pytest.mark.parametrize(
    ("allow", "consent"),
    [
        (None, None),
        ((), False),
        ((OTHER,), False),
        ((OTHER, MeshletRef("shop", "web")), True),
        ((MeshletRef("x", "web"),), False),
    ],
)
def test_consent_is_three_valued(world, allow, consent: bool | None) -> None:
    table = world.table(world.service(allow=allow), world.client())
    assert authorization_request(table, world.web, None, world.http, "client").consent is consent


def test_the_request_carries_who_and_where(world) -> None:
    pod = PodRef("shop", "web-0")
    request = authorization_request(world.table(), world.web, pod, world.http, "server")
    assert (request.source, request.source_pod, request.target, request.side) == (world.web, pod, world.http, "server")
    assert (request.exists, request.declared, request.consent) == (False, False, None)
