"""May this source use this target, and by which route? Facts, authorizers and routing tables put together."""

from __future__ import annotations

from typing import Final

import attrs

from meshless_core.agent.runtime import AgentRuntime
from meshless_core.routing import Refusal, Route, RoutingTable, authorization_request, resolve
from meshless_core.routing.authorization import Side
from meshless_core.types import AuthorizationRequest, Decision, MeshletRef, PodRef, ReplyCode, ServiceId, Verdict

__all__ = ["Admission", "Admitted"]


_MAX_GATHERED: Final = 4096
_MAX_ROUNDS: Final = 5


@attrs.frozen
class Admitted:
    """An allowed connection.

    Attributes:
        route: how to reach the service.
        policy: name of the policy that allowed it.
        table: what that rests on; once another one is in force, ask again before the connection is made.
    """

    route: Route
    policy: str
    table: RoutingTable


class Admission:
    """Decides with what the agent knows at this moment."""

    def __init__(self, runtime: AgentRuntime) -> None:
        self._runtime = runtime
        self._gathered: dict[tuple[MeshletRef, PodRef | None, ServiceId, Side], AuthorizationRequest] = {}
        self._gathered_from: RoutingTable | None = None

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
            decision = self._runtime.panel.ask_inline(self._facts(table, source, source_pod, target, side))
        return self._settle(table, source, target, decision, side)

    async def decide(
        self, source: MeshletRef | None, source_pod: PodRef | None, target: ServiceId, side: Side
    ) -> Admitted | Refusal:
        """Decide, asking every authorizer; again if other documents came before all had answered."""
        for _ in range(_MAX_ROUNDS):
            table = self._runtime.table
            if table is None:
                return _NOT_READY
            decision = None
            if source is not None:
                request = self._facts(table, source, source_pod, target, side)
                decision = (await self._runtime.panel.ask(request)).final
            if table is self._runtime.table:
                return self._settle(table, source, target, decision, side)
        return _TOO_RESTLESS

    def _facts(
        self, table: RoutingTable, source: MeshletRef, source_pod: PodRef | None, target: ServiceId, side: Side
    ) -> AuthorizationRequest:
        """`authorization_request`, remembered as long as the table is the same: facts depend on nothing else."""
        if table is not self._gathered_from or len(self._gathered) >= _MAX_GATHERED:
            self._gathered.clear()
            self._gathered_from = table
        key = (source, source_pod, target, side)
        request = self._gathered.get(key)
        if request is None:
            request = self._gathered[key] = authorization_request(table, source, source_pod, target, side)
        return request

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
        return Admitted(route, decision.policy, table)


_NOT_READY = Refusal(ReplyCode.NOT_READY, "agent", "this agent has no documents yet: is the reconciler running")
_TOO_RESTLESS = Refusal(ReplyCode.NOT_READY, "agent", "documents change faster than the authorizers answer")
