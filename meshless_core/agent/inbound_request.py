"""One connection another agent asks for: authorize with authority, connect to the local pod, relay.

The source is what the peer's leaf proves, never what the preface says; the pod it names is for logs. Whatever happens the
request is answered, once.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable
from functools import partial

from meshless_core.agent.admission import Admission, Admitted
from meshless_core.agent.care import guarded
from meshless_core.agent.connections import Connection
from meshless_core.agent.delivery import BACKLOG_RETRY_SECONDS, DeliveryFailure, Introduction, deliver
from meshless_core.agent.runtime import AgentRuntime
from meshless_core.relay import FramedSession, RelayResult
from meshless_core.routing import Refusal, not_served
from meshless_core.tunnel import OpenReply, OpenRequest
from meshless_core.types import Endpoint, ReplyCode

__all__ = ["InboundRequest"]

logger = logging.getLogger(__name__)


class InboundRequest:
    """A request on a session, from its arrival to its refusal or to the end of its connection.

    Args:
        runtime: the agent's shared state.
        admission: decides.
        session: where it came, and where it is answered.
        peer: address of the other agent, for people.
        request: what is wanted.
        on_refused: called once if it is refused; the session is idle then.
        on_closed: called once if it was not, when the connection is over: whether the session can be used again.
    """

    __slots__ = (
        "_admission",
        "_connection",
        "_on_closed",
        "_on_refused",
        "_peer",
        "_request",
        "_runtime",
        "_session",
        "_source",
        "_started",
        "_waiting",
    )

    def __init__(
        self,
        runtime: AgentRuntime,
        admission: Admission,
        session: FramedSession,
        peer: str,
        request: OpenRequest,
        *,
        on_refused: Callable[[], None],
        on_closed: Callable[[bool], None],
    ) -> None:
        self._runtime = runtime
        self._admission = admission
        self._session = session
        self._source = session.stream.peer.ref
        self._peer = peer
        self._request = request
        self._on_refused = on_refused
        self._on_closed = on_closed
        self._started = time.monotonic()
        self._waiting: asyncio.TimerHandle | asyncio.Task[None] | None = None
        self._connection: Connection | None = None

    def cancel(self) -> None:
        """Wait for nothing more: the session is gone, and with it whoever could be answered."""
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    @guarded
    def begin(self) -> None:
        """Decide, connect, reply, relay; what has to wait goes on by itself."""
        runtime, local = self._runtime, self._session.stream.local.ref
        if runtime.draining:
            self._refuse(Refusal(ReplyCode.DRAINING, "agent", "this agent is shutting down"))
        elif local != self._request.service.owner:
            reason = f"this tunnel was made to {local}, not to {self._request.service.owner}"
            self._refuse(Refusal(ReplyCode.ACCESS_DENIED, "agent", reason))
        elif len(runtime.connections) + runtime.establishing >= runtime.settings.max_connections:
            self._refuse(Refusal(ReplyCode.OVERLOADED, "agent", "agent.max_connections is reached"))
        else:
            self._decide()

    def failed(self, error: Exception) -> None:
        """Give up because of a bug; say so if nothing was said yet."""
        service = self._request.service
        logger.error("connection %s to %s failed", self._request.connection_id.hex(), service, exc_info=error)
        if self._session.state == "opening":
            self._refuse(
                Refusal(ReplyCode.INTERNAL_ERROR, "agent", f"internal error: {type(error).__name__}; see the agent's log")
            )

    def _decide(self) -> None:
        request = self._request
        if (refusal := self._not_served()) is not None:
            self._refuse(refusal)
        elif self._admission.inline_only:
            self._settle(self._admission.decide_inline(self._source, request.source_pod, request.service, "server"))
        else:
            self._waiting = self._runtime.spawn(self._decide_slowly(), "decide")

    async def _decide_slowly(self) -> None:
        request = self._request
        try:
            outcome = await self._admission.decide(self._source, request.source_pod, request.service, "server")
        except Exception as error:  # noqa: BLE001 - logged with the connection's id, and answered
            self.failed(error)
            return
        self._waiting = None
        self._settle(outcome)

    def _not_served(self) -> Refusal | None:
        table = self._runtime.table
        return None if table is None else not_served(table, self._request.service, self._request.pod)

    @guarded
    def _settle(self, outcome: Admitted | Refusal) -> None:
        request = self._request
        if isinstance(outcome, Refusal):
            self._refuse(self._not_served() or outcome)  # documents may have come while it was decided
            return
        endpoint = outcome.route.local_pods.get(request.pod)
        if endpoint is None or endpoint.uid != request.pod_uid:
            reason = f"pod {request.pod} ({request.pod_uid[:64]}) does not serve {request.service} on node {self._runtime.node}"
            self._refuse(Refusal(ReplyCode.NO_ENDPOINT, "routing", reason))
            return
        self._connect(outcome, endpoint)

    @guarded
    def _connect(self, admitted: Admitted, endpoint: Endpoint) -> None:
        self._waiting = None
        runtime, request = self._runtime, self._request
        if runtime.table is not admitted.table:
            self._decide()  # documents that came while its backlog was full may have taken it back
            return
        who = Introduction(request.connection_id, self._source, request.source_pod)
        service = deliver(runtime, admitted.route, endpoint.pod, endpoint.uid, who)
        if service is None:
            if time.monotonic() - self._started < min(request.deadline_ms / 1000, runtime.settings.endpoint_timeout):
                self._waiting = runtime.loop.call_later(BACKLOG_RETRY_SECONDS, self._connect, admitted, endpoint)
                return
            service = DeliveryFailure(ReplyCode.SERVICE_REFUSED, f"pod {endpoint.pod}: its backlog stays full")
        if isinstance(service, DeliveryFailure):
            self._refuse(Refusal(service.code, "routing", service.text))
            return
        self._relay(admitted, endpoint, service)

    def _relay(self, admitted: Admitted, endpoint: Endpoint, service: socket.socket) -> None:
        runtime, request = self._runtime, self._request
        self._connection = connection = Connection(
            id=request.connection_id,
            reporter="destination",
            transport="tunnel",
            source=self._source,
            source_pod=request.source_pod,
            service=request.service,
            endpoint=endpoint,
            peer=self._peer,
            policy=admitted.policy,
            connect_seconds=time.monotonic() - self._started,
        )
        runtime.opened(connection)
        try:
            self._session.reply(OpenReply(ReplyCode.OK))
            connection.relay = self._session.relay(
                service,
                idle_timeout=admitted.route.idle_timeout,
                on_close=self._closed,
                on_hang_up=partial(runtime.give_back_slot, connection),
            )
        except Exception as error:  # noqa: BLE001 - logged by `failed`; what was booked must not stay so
            service.close()
            why = f"cannot be relayed: internal error: {type(error).__name__}"
            self._closed(RelayResult("error", why, "agent", 0, 0), reusable=False)
            self.failed(error)

    def _closed(self, result: RelayResult, reusable: bool) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._runtime.closed(connection, None, result)
            self._on_closed(reusable)

    def _refuse(self, refusal: Refusal) -> None:
        runtime, request = self._runtime, self._request
        route = runtime.table.route(request.service) if runtime.table is not None else None
        endpoint = route.local_pods.get(request.pod) if route is not None else None
        version = endpoint.version if endpoint is not None else None  # the documents', not what the peer says
        known = request.service if route is not None else None
        runtime.metrics.refused("destination", self._source, known, refusal.code, refusal.policy, version)
        runtime.access_log.refused(
            request.connection_id,
            "destination",
            self._source,
            request.source_pod,
            request.service,
            refusal.code,
            refusal.policy,
            refusal.reason,
            version,
        )
        self._waiting = None
        self._session.reply(OpenReply(refusal.code, refusal.reason[:256]))
        self._on_refused()
