from __future__ import annotations

import attrs
import pytest
from meshless_policy_declared.plugin import DeclaredPolicy, Options, meshless_register_authorizer

from meshless_core import PLUGIN_API, AuthorizationRequest, InlineAuthorizer, MeshletRef, ServiceId, Verdict
from meshless_core.testing.authorizer import check_authorizer

ASKED = AuthorizationRequest(
    source=MeshletRef("shop", "web"),
    source_pod=None,
    target=ServiceId("http", "cart", "shop"),
    exists=True,
    declared=True,
    consent=None,
    side="client",
)


def test_registers_an_inline_authorizer_with_options_that_all_have_defaults() -> None:
    spec = meshless_register_authorizer()
    assert spec.api == PLUGIN_API
    assert isinstance(spec.create(spec.options()), InlineAuthorizer)
    assert all(field.metadata["doc"] for field in attrs.fields(Options))


@pytest.mark.parametrize("side", ["client", "server"])
@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize(
    ("declared", "consent", "require_consent", "verdict", "policy"),
    [
        (False, None, False, Verdict.DENY, "policy_declared/declaration"),
        (False, True, False, Verdict.DENY, "policy_declared/declaration"),
        (False, False, False, Verdict.DENY, "policy_declared/declaration"),
        (True, None, False, Verdict.ALLOW, "policy_declared/declaration"),
        (True, True, False, Verdict.ALLOW, "policy_declared/allow-list"),
        (True, False, False, Verdict.DENY, "policy_declared/allow-list"),
        (False, None, True, Verdict.DENY, "policy_declared/declaration"),
        (False, True, True, Verdict.DENY, "policy_declared/declaration"),
        (False, False, True, Verdict.DENY, "policy_declared/declaration"),
        (True, None, True, Verdict.DENY, "policy_declared/allow-list"),
        (True, True, True, Verdict.ALLOW, "policy_declared/allow-list"),
        (True, False, True, Verdict.DENY, "policy_declared/allow-list"),
    ],
)
def test_every_combination_of_facts_has_its_verdict(
    declared: bool, consent: bool | None, require_consent: bool, verdict: Verdict, policy: str, exists: bool, side: str
) -> None:
    request = attrs.evolve(ASKED, declared=declared, consent=consent, exists=exists, side=side)
    decision = DeclaredPolicy(Options(require_consent=require_consent)).authorize_inline(request)
    assert (decision.verdict, decision.policy) == (verdict, policy)


def test_a_missing_declaration_names_the_meshlet_the_service_and_the_field() -> None:
    decision = DeclaredPolicy(Options()).authorize_inline(attrs.evolve(ASKED, declared=False))
    assert (
        decision.reason == "meshlet shop/web does not list http.cart.shop under spec.client: add it there and apply the Meshlet"
    )


def test_a_missing_consent_names_the_service_the_meshlet_and_the_field() -> None:
    decision = DeclaredPolicy(Options()).authorize_inline(attrs.evolve(ASKED, consent=False))
    assert decision.reason == (
        "service http.cart.shop does not allow shop/web: add it to spec.server.services[].allow of meshlet shop/cart"
    )


def test_a_closed_service_names_the_option_that_closes_it() -> None:
    decision = DeclaredPolicy(Options(require_consent=True)).authorize_inline(ASKED)
    assert "require_consent is on" in decision.reason
    assert "shop/web" in decision.reason


@pytest.mark.parametrize("consent", [True, False, None])
def test_who_does_not_declare_a_service_cannot_tell_whether_it_exists(consent: bool | None) -> None:
    policy = DeclaredPolicy(Options())
    unknown = policy.authorize_inline(attrs.evolve(ASKED, declared=False, exists=False))
    known = policy.authorize_inline(attrs.evolve(ASKED, declared=False, exists=True, consent=consent))
    assert known == unknown


@pytest.mark.parametrize("require_consent", [True, False])
async def test_it_keeps_the_contract_of_authorizers(require_consent: bool) -> None:
    await check_authorizer(lambda: DeclaredPolicy(Options(require_consent=require_consent)))
