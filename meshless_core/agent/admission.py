"""May this source use this target, and by which route? Facts, authorizers and routing tables put together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import attrs

from meshless_core.agent.runtime import AgentRuntime
from meshless_core.routing import Refusal, Route, RoutingTable, authorization_request, resolve
from meshless_core.routing.authorization import Side
from meshless_core.types import AuthorizationRequest, Decision, MeshletRef, PodRef, ReplyCode, ServiceId, Verdict

__all__ = ["Admission", "Admitted"]


_MAX_CASES: Final = 4096
_MAX_ROUNDS: Final = 5
_ALLOW: Final = Verdict.ALLOW
_REPORTER: Final[Mapping[Side, str]] = {"client": "source", "server": "destination"}


@attrs.frozen(eq=False)
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


@attrs.define(eq=False)
class _Case:
    """What one source, one target and one table have in common for all their connections.

    Attributes:
        facts: what authorizers are asked.
        admitted: the outcome of the last decision that allowed it.
    """

    facts: AuthorizationRequest
    admitted: Admitted | None = None


class Admission:
    """Decides with what the agent knows at this moment.

    The authorizers are asked for every connection. What follows from an answer depends on nothing but the table, so it is
    remembered as long as the table is the same.
    """

    def __init__(self, runtime: AgentRuntime) -> None:
        self._runtime = runtime
        self._cases: dict[tuple[MeshletRef, PodRef | None, ServiceId, Side], _Case] = {}
        self._cases_of: RoutingTable | None = None

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
        if source is None:
            return self._settle(table, source, target, None, side)
        case = self._case(table, source, source_pod, target, side)
        decision = self._runtime.panel.ask_inline(case.facts)
        admitted = case.admitted
        if admitted is not None and decision.verdict is _ALLOW and decision.policy == admitted.policy:
            self._runtime.metrics.decided("allow", _REPORTER[side])
            return admitted
        outcome = self._settle(table, source, target, decision, side)
        if isinstance(outcome, Admitted):
            case.admitted = outcome
        return outcome

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
                facts = self._case(table, source, source_pod, target, side).facts
                decision = (await self._runtime.panel.ask(facts)).final
            if table is self._runtime.table:
                return self._settle(table, source, target, decision, side)
        return _TOO_RESTLESS

    def _case(self, table: RoutingTable, source: MeshletRef, source_pod: PodRef | None, target: ServiceId, side: Side) -> _Case:
        if table is not self._cases_of or len(self._cases) >= _MAX_CASES:
            self._cases.clear()
            self._cases_of = table
        key = (source, source_pod, target, side)
        case = self._cases.get(key)
        if case is None:
            case = self._cases[key] = _Case(authorization_request(table, source, source_pod, target, side))
        return case

    def _settle(
        self, table: RoutingTable, source: MeshletRef | None, target: ServiceId, decision: Decision | None, side: Side
    ) -> Admitted | Refusal:
        if decision is not None:
            self._runtime.metrics.decided("allow" if decision.verdict is _ALLOW else "deny", _REPORTER[side])
        route = resolve(table, source, target, decision, side)
        if isinstance(route, Refusal):
            return route
        assert decision is not None, "resolve refuses without a decision"
        return Admitted(route, decision.policy, table)


_NOT_READY = Refusal(ReplyCode.NOT_READY, "agent", "this agent has no documents yet: is the reconciler running")
_TOO_RESTLESS = Refusal(ReplyCode.NOT_READY, "agent", "documents change faster than the authorizers answer")
