"""Live connections against new documents: what is no longer allowed is cut, with the reason in the log.

A pod that leaves the node takes the documents about it along. That takes nothing back: it may finish what it was doing.
"""

from __future__ import annotations

import logging

from meshless_core.agent.admission import Admission
from meshless_core.agent.connections import Connection
from meshless_core.agent.runtime import AgentRuntime
from meshless_core.routing import Refusal, not_served
from meshless_core.routing.authorization import Side
from meshless_core.types import ReplyCode

__all__ = ["Recheck"]

logger = logging.getLogger(__name__)

_NO_REVOCATION = frozenset({ReplyCode.NO_ENDPOINT, ReplyCode.NOT_READY})
"""A pod that is not ready, or documents that are missing, take nothing back that was allowed."""


class Recheck:
    """Asks again for every live connection whenever the documents changed."""

    def __init__(self, runtime: AgentRuntime, admission: Admission) -> None:
        self._runtime = runtime
        self._admission = admission
        self._again = False
        self._running = False

    def run(self) -> None:
        """Check all live connections: at once if authorizers are inline, in the background if not."""
        if self._admission.inline_only:
            for connection in self._runtime.connections:
                if (side := self._side(connection)) is not None:
                    source, pod, service = connection.source, connection.source_pod, connection.service
                    self._apply(connection, self._admission.decide_inline(source, pod, service, side))
            return
        self._again = True
        if not self._running:
            self._running = True
            self._runtime.spawn(self._run_slowly(), "recheck")

    async def _run_slowly(self) -> None:
        try:
            while self._again:
                self._again = False
                for connection in self._runtime.connections:
                    if (side := self._side(connection)) is None:
                        continue
                    source, pod, service = connection.source, connection.source_pod, connection.service
                    outcome = await self._admission.decide(source, pod, service, side)
                    if self._side(connection) == side:  # else other documents came: it is their turn
                        self._apply(connection, outcome)
        finally:
            self._running = False

    def _side(self, connection: Connection) -> Side | None:
        """On which side to ask; None if the facts of this side have left with its pod."""
        table = self._runtime.table
        assert table is not None  # it is what changed
        if connection.reporter != "destination" and (
            table.meshlet(connection.source) is not None or connection.source_pod in table.pods
        ):
            return "client"
        if connection.reporter == "source" or not_served(table, connection.service, connection.endpoint.pod) is not None:
            return None
        return "server"

    def _apply(self, connection: Connection, outcome: object) -> None:
        if not isinstance(outcome, Refusal) or outcome.code in _NO_REVOCATION:
            return
        relay = connection.relay
        if relay is None or relay.closed:
            return
        logger.warning(
            "connection %s of %s to %s is cut: %s (%s)",
            connection.id.hex(),
            connection.source,
            connection.service,
            outcome.reason,
            outcome.policy,
        )
        connection.cut("revoked", f"no longer allowed by {outcome.policy}: {outcome.reason}"[:256])
