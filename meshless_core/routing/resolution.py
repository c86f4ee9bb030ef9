"""From a decision to a route, or to a refusal with a code and a reason.

The order of the checks is a promise: a client that may not see a service learns nothing about it, so "denied" is said before
"not found". What a node does not serve at all it may say to everybody, whether such a service exists elsewhere or not.
This module must not ask anybody anything.
"""

from __future__ import annotations

import attrs

from meshless_core.documents import meshlet_topic, service_topic
from meshless_core.routing.authorization import DEFAULT_DENY, Side
from meshless_core.routing.table import Route, RoutingTable
from meshless_core.types import Decision, MeshletRef, PodRef, ReplyCode, ServiceId, Verdict

__all__ = ["Refusal", "not_served", "resolve"]


@attrs.frozen
class Refusal:
    """Why a connection is not made.

    Attributes:
        code: what the client is told.
        policy: who decided: the policy's name for ACCESS_DENIED, otherwise "routing".
        reason: for logs and `explain`: names the objects and the fix.
    """

    code: ReplyCode
    policy: str
    reason: str


def resolve(
    table: RoutingTable, source: MeshletRef | None, target: ServiceId, decision: Decision | None, side: Side = "client"
) -> Route | Refusal:
    """The route of an allowed connection, or why there is none.

    On the server's side the source is proven by its leaf and its document lives elsewhere, and the endpoint was chosen by the
    client's agent: there only the decision and the existence of the service count (see `Route.local_pods` for the pod).

    Args:
        table: what this agent knows.
        source: who wants to connect; None if the pod belongs to no meshlet.
        target: the service it wants.
        decision: the combined decision; None (nobody was asked) is a denial.
        side: which agent asks.
    """
    if source is None:
        cure = "label it meshless/meshlet=<name> with the name of a Meshlet of its namespace"
        return Refusal(ReplyCode.UNKNOWN_CLIENT, "routing", f"the pod belongs to no meshlet that exists: {cure}")
    if side == "client" and table.meshlet(source) is None:
        if meshlet_topic(source) in table.awaited:
            return Refusal(ReplyCode.NOT_READY, "routing", f"the document of meshlet {source} has not arrived yet")
        return Refusal(
            ReplyCode.UNKNOWN_CLIENT, "routing", f"meshlet {source} is not known on node {table.node}: create the Meshlet"
        )
    if decision is None:
        return Refusal(ReplyCode.ACCESS_DENIED, DEFAULT_DENY, f"nobody decided whether {source} may use {target}")
    if decision.verdict is not Verdict.ALLOW:
        return Refusal(ReplyCode.ACCESS_DENIED, decision.policy, decision.reason)
    route = table.route(target)
    if route is None:
        if service_topic(target) in table.awaited:
            return _not_arrived(target)
        return Refusal(
            ReplyCode.SERVICE_NOT_FOUND,
            "routing",
            f"service {target} is not known: add it to spec.server.services of meshlet {target.owner}",
        )
    if side == "client" and not route.shares:
        return Refusal(ReplyCode.NO_ENDPOINT, "routing", _why_no_endpoint(route))
    return route


def not_served(table: RoutingTable, target: ServiceId, pod: PodRef) -> Refusal | None:
    """Why the agent beside a pod cannot judge who may use it, asked before any policy; None if it can.

    With the last pod of a meshlet a node lets go of the documents about it. What it then lacks are the facts, which must not
    be taken for a "no": the client's agent tries another pod, and connections to the pod that is leaving go on.

    Args:
        table: what this agent knows.
        target: the service of a connection from another agent.
        pod: the pod that serves it, as that agent says.
    """
    if table.route(target) is not None:
        return None
    if service_topic(target) in table.awaited:
        return _not_arrived(target)
    if pod not in table.pods:
        return Refusal(ReplyCode.NO_ENDPOINT, "routing", f"pod {pod} is not on node {table.node} any more")
    return None


def _not_arrived(target: ServiceId) -> Refusal:
    return Refusal(ReplyCode.NOT_READY, "routing", f"the document of service {target} has not arrived yet")


def _why_no_endpoint(route: Route) -> str:
    if not route.endpoints:
        return f"service {route.service} has no pod: check the selector of meshlet {route.service.owner}"
    if route.canary is None:
        return f"service {route.service} has no ready pod, {len(route.endpoints)} not ready: check their readiness"
    weights = ", ".join(f"{version}={weight}" for version, weight in route.canary.items())
    return f"service {route.service} has no ready pod of a version with a weight in spec.server.canary ({weights})"
