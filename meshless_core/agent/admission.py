"""May this source use this target, and by which route? Facts, authorizers and routing tables put together."""

from __future__ import annotations

import attrs

from meshless_core.agent.runtime import AgentRuntime
from meshless_core.routing import Refusal, Route, RoutingTable, authorization_request, resolve
from meshless_core.routing.authorization import Side
from meshless_core.types import Decision, MeshletRef, PodRef, ReplyCode, ServiceId, Verdict

__all__ = ["Admission", "Admitted"]


@attrs.frozen
class Admitted:
    """An allowed connection.

    Attributes:
        route: how to reach the service.
        policy: name of the policy that allowed it.
    """

    route: Route
    policy: str


class Admission:
    """Decides with what the agent knows at this moment."""

    def __init__(self, runtime: AgentRuntime) -> None:
        self._runtime = runtime

    @property
    def inline_only(self) -> bool:
        """Whether `decide_inline` may be used."""
        return self._runtime.panel.inline_only

    def decide_inline(
        self, source: MeshletRef | None, source_pod: PodRef | None, target: ServiceId, side: Side
    ) -> Admitted | Refusal:
        """Decide without waiting; only if `inline_only`."""
        table = self._runtime.table
        if table is None:
            return _NOT_READY
        decision = None
        if source is not None:
            decision = self._runtime.panel.ask_inline(authorization_request(table, source, source_pod, target, side))
        return self._settle(table, source, target, decision, side)

    async def decide(
        self, source: MeshletRef | None, source_pod: PodRef | None, target: ServiceId, side: Side
    ) -> Admitted | Refusal:
        """Decide, asking every authorizer."""
        table = self._runtime.table
        if table is None:
            return _NOT_READY
        decision = None
        if source is not None:
            request = authorization_request(table, source, source_pod, target, side)
            decision = (await self._runtime.panel.ask(request)).final
        return self._settle(self._runtime.table or table, source, target, decision, side)

    def _settle(
        self, table: RoutingTable, source: MeshletRef | None, target: ServiceId, decision: Decision | None, side: Side
    ) -> Admitted | Refusal:
        if decision is not None:
            self._runtime.metrics.decided(
                "allow" if decision.verdict is Verdict.ALLOW else "deny", "source" if side == "client" else "destination"
            )
        route = resolve(table, source, target, decision, side)
        if isinstance(route, Refusal):
            return route
        assert decision is not None, "resolve refuses without a decision"
        return Admitted(route, decision.policy)


_NOT_READY = Refusal(ReplyCode.NOT_READY, "agent", "this agent has no documents yet: is the reconciler running")
