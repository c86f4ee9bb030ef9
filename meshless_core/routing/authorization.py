"""What authorizers are asked, and how their answers become one.

Both functions fail closed: a fact that is not known counts as "no", two documents that disagree count as "no", and a
connection nobody allowed is denied. Asking the plugins, bounding them in time and turning their mistakes into a `Deny` is the
agent's work.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal

from meshless_core.routing.table import RoutingTable
from meshless_core.types import AuthorizationRequest, Decision, MeshletRef, PodRef, ServiceId, Verdict

__all__ = ["DEFAULT_DENY", "Side", "authorization_request", "combine"]

Side = Literal["client", "server"]

DEFAULT_DENY: Final = "default-deny"
"""Name of the policy that speaks when no authorizer did."""

_NOBODY_ASKED: Final = Decision(
    Verdict.DENY, DEFAULT_DENY, "no authorizer is active: name one under plugins, for example policy_declared"
)


def authorization_request(
    table: RoutingTable, source: MeshletRef, source_pod: PodRef | None, target: ServiceId, side: Side
) -> AuthorizationRequest:
    """Gather the facts authorizers decide on.

    `declared` comes from the source's own document on the client's side and from the service's document on the server's side.
    Where both are at hand they must agree: one of them may be behind, and the older one must not open what the newer closed.

    Args:
        table: what this agent knows.
        source: who wants to connect, proven by the listener or the leaf.
        source_pod: the pod behind it where known; on the server's side it is hearsay, for logs only.
        target: the service it wants.
        side: which agent asks.
    """
    route = table.route(target)
    uses = table.uses(source)
    listed = None if uses is None else target in uses
    named = None if route is None else source in route.declared_by
    if side == "client":
        declared = listed is True and named is not False
    else:
        declared = named is True and listed is not False
    return AuthorizationRequest(
        source=source,
        source_pod=source_pod,
        target=target,
        exists=route is not None,
        declared=declared,
        consent=None if route is None or route.allow is None else source in route.allow,
        side=side,
    )


def combine(decisions: Iterable[Decision]) -> Decision:
    """One decision out of many: any `Deny` wins whatever the order, then any `Allow`; without either it is denied."""
    allowed: Decision | None = None
    abstained: list[str] = []
    for decision in decisions:
        match decision.verdict:
            case Verdict.DENY:
                return decision
            case Verdict.ALLOW:
                allowed = allowed or decision
            case Verdict.ABSTAIN:
                abstained.append(decision.policy)
    if allowed is not None:
        return allowed
    if not abstained:
        return _NOBODY_ASKED
    return Decision(
        Verdict.DENY,
        DEFAULT_DENY,
        f"no authorizer allowed it, abstained: {', '.join(abstained)}; enable one that answers, for example policy_declared",
    )
