"""One client of this node, from its complete request to the relay.

The common case (request already there, authorizers inline, service on this node) runs from accept to relay in one callback
without a task, a timer or a second look at epoll. Whatever has to wait leaves that path: a slow client, an authorizer that
waits, a full backlog, a tunnel.

Until the reply no application byte has moved, so the next endpoint is always tried, within the deadline. Every connection gets
a reply; which listener accepted it is who the client is.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from functools import partial
from typing import Final

from meshless_core.agent.admission import Admission, Admitted
from meshless_core.agent.care import guarded
from meshless_core.agent.client_reply import close_after_reply, record_refusal, retry_after, send_reply
from meshless_core.agent.connections import Connection
from meshless_core.agent.delivery import BACKLOG_RETRY_SECONDS, DeliveryFailure, Introduction, deliver
from meshless_core.agent.entrance import Entrance
from meshless_core.agent.filtering import Booking, Filter, has_filter
from meshless_core.agent.hand_off import give_descriptor, may_hand_off
from meshless_core.agent.lease import Lease
from meshless_core.agent.outbound import OutboundTunnels, TunnelOpening
from meshless_core.hookspecs import (
    CanaryRequest,
    FilteringHandshake,
    HandshakeProtocol,
    HandshakeRequest,
    ReplyDetails,
)
from meshless_core.relay import FramedSession, RelayResult, relay_plain
from meshless_core.routing import Attempts, Balancer, Refusal, Route, RoutingTable, attempts
from meshless_core.tunnel import OpenReply, OpenRequest
from meshless_core.types import Endpoint, Identity, ReplyCode

__all__ = ["ClientConnection"]

logger = logging.getLogger(__name__)

_HANGUP_ONLY: Final = 0  # EPOLLHUP and EPOLLERR are always reported
_EJECTS: Final = frozenset({ReplyCode.TUNNEL_FAILED, ReplyCode.SERVICE_REFUSED, ReplyCode.TIMEOUT, ReplyCode.INTERNAL_ERROR})
_FINAL: Final = frozenset({ReplyCode.ACCESS_DENIED, ReplyCode.SERVICE_NOT_FOUND})


class ClientConnection:
    """One client with a complete request. States: deciding -> connecting -> over (relayed, refused or gone)."""

    __slots__ = (
        "_attempts",
        "_balancer",
        "_client",
        "_endpoint",
        "_entrance",
        "_failure",
        "_handshake",
        "_id",
        "_opening",
        "_over",
        "_policy",
        "_request",
        "_route",
        "_runtime",
        "_started",
        "_table",
        "_task",
        "_timer",
        "_tried",
        "_watched",
    )

    def __init__(
        self,
        entrance: Entrance,
        client: socket.socket,
        connection_id: bytes,
        handshake: HandshakeProtocol,
        request: HandshakeRequest,
    ) -> None:
        self._entrance = entrance
        self._runtime = entrance.runtime
        self._client = client
        self._id = connection_id
        self._handshake = handshake
        self._request = request
        self._over = False
        self._watched = False
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._opening: TunnelOpening | None = None
        self._table: RoutingTable | None = None  # what the decision rests on
        self._route: Route | None = None
        self._balancer: Balancer | None = None
        self._attempts: Attempts | None = None
        self._endpoint: Endpoint | None = None
        self._failure: Refusal | None = None
        self._policy = ""
        self._started = 0.0
        self._tried = 0.0

    # --- deciding ----------------------------------------------------------------------------------------------------

    @guarded
    def begin(self) -> None:
        """Decide, connect, reply, relay; what has to wait goes on by itself."""
        runtime = self._runtime
        self._started = time.monotonic()
        runtime.establishing += 1
        if runtime.draining:
            self._refuse(ReplyCode.DRAINING, "agent", "this agent is shutting down")
            return
        if len(runtime.connections) + runtime.establishing > runtime.settings.max_connections:
            limit = runtime.settings.max_connections
            self._refuse(ReplyCode.OVERLOADED, "agent", f"this agent has its agent.max_connections of {limit}")
            return
        self._decide()

    def _decide(self) -> None:
        """Ask whether it is allowed; also again, when documents changed before the connection was made."""
        admission = self._entrance.admission
        if admission.inline_only:
            self._settle(self._decide_inline())
            return
        self._wait()
        remaining = max(self._deadline() - time.monotonic(), 0.0)
        self._timer = self._runtime.loop.call_later(remaining, self._undecided)
        self._task = self._runtime.spawn(self._decide_slowly(admission), "decide")

    def _decide_inline(self) -> Admitted | Refusal:
        placement = self._entrance.pod.placement
        return self._entrance.admission.decide_inline(placement.meshlet, placement.pod, self._request.service_id, "client")

    async def _decide_slowly(self, admission: Admission) -> None:
        placement = self._entrance.pod.placement
        outcome = await admission.decide(placement.meshlet, placement.pod, self._request.service_id, "client")
        self._task = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._over:
            self._settle(outcome)

    def _undecided(self) -> None:
        self._timer = None
        self._refuse(ReplyCode.TIMEOUT, "agent", f"not decided within {self._deadline() - self._started:g} s")

    @guarded
    def _settle(self, outcome: Admitted | Refusal) -> None:
        if isinstance(outcome, Refusal):
            self._refuse(outcome.code, outcome.policy, outcome.reason)
            return
        request = self._request
        route = outcome.route.for_wishes(request.sticky_key, request.version_pin)
        self._policy = outcome.policy
        self._table = outcome.table
        try:
            version = self._choose(route, request)
            self._balancer = self._runtime.balancers.of(route)
            self._attempts = attempts(route, version, self._balancer, time.monotonic())
        except Exception:
            name = self._runtime.canary.name
            logger.exception("canary selector %s failed on connection %s to %s", name, self._id.hex(), request.service_id)
            self._refuse(ReplyCode.INTERNAL_ERROR, "canary", f"canary selector {name} failed; see the agent's log")
            return
        self._route = route
        self._try_next()

    def _choose(self, route: Route, request: HandshakeRequest) -> str | None:
        if len(route.shares) == 1:
            return route.shares[0].version  # one version is no choice
        wish = CanaryRequest(request.service_id, route.shares, request.sticky_key, request.version_pin)
        return self._runtime.canary.choose(wish)

    # --- connecting --------------------------------------------------------------------------------------------------

    def _try_next(self) -> None:
        assert self._attempts is not None
        runtime = self._runtime
        for attempt in self._attempts:
            self._endpoint = attempt.endpoint
            if attempt.endpoint.node != runtime.node:
                self._open_tunnel(attempt.endpoint)
                return
            self._tried = time.monotonic()
            if self._try_local(attempt.endpoint):
                return
        failure = self._failure
        if failure is None:
            self._refuse(ReplyCode.NO_ENDPOINT, "routing", "no endpoint is left to try")
        elif self._attempts.was_limited:
            self._refuse(ReplyCode.CONNECTION_LIMIT, "routing", "maxConn is reached on every eligible pod")
        else:
            self._refuse(failure.code, failure.policy, failure.reason)

    def _try_local(self, endpoint: Endpoint) -> bool:
        """Whether this endpoint settled it, or still may (a full backlog)."""
        assert self._route is not None
        if self._runtime.table is not self._table:
            self._decide()  # documents that came while others were tried may have taken it back
            return True
        placement = self._entrance.pod.placement
        assert placement.meshlet is not None
        who = Introduction(self._id, placement.meshlet, placement.pod)
        outcome = deliver(self._runtime, self._route, endpoint.pod, endpoint.uid, who)
        if isinstance(outcome, socket.socket):
            self._relay_local(endpoint, outcome)
            return True
        if outcome is None:
            if time.monotonic() - self._tried < self._runtime.settings.endpoint_timeout:
                self._wait()
                self._timer = self._runtime.loop.call_later(BACKLOG_RETRY_SECONDS, self._retry_local, endpoint)
                return True
            outcome = DeliveryFailure(ReplyCode.SERVICE_REFUSED, f"pod {endpoint.pod}: its backlog stays full")
        self._attempt_failed(endpoint, outcome.code, outcome.text)
        return False

    @guarded
    def _retry_local(self, endpoint: Endpoint) -> None:
        self._timer = None
        if not self._over and not self._expired() and not self._try_local(endpoint):
            self._try_next()

    def _open_tunnel(self, endpoint: Endpoint) -> None:
        runtime = self._runtime
        request, source = self._request, self._entrance.pod.placement.meshlet
        assert source is not None
        if self._expired():
            return
        self._tried = time.monotonic()
        remaining = min(runtime.settings.endpoint_timeout, self._deadline() - self._tried)
        service = request.service_id
        self._wait()
        self._opening = self._entrance.tunnels.open(
            endpoint.address,
            Identity(runtime.trust_domain, source.namespace, source.name),
            Identity(runtime.trust_domain, service.namespace, service.meshlet),
            OpenRequest(
                connection_id=self._id,
                service=service,
                pod=endpoint.pod,
                pod_uid=endpoint.uid,
                version=endpoint.version,
                source_pod=self._entrance.pod.placement.pod,
                deadline_ms=max(int(remaining * 1000), 1),
            ),
            remaining,
            partial(self._tunnel_opened, endpoint),
        )

    @guarded
    def _tunnel_opened(self, endpoint: Endpoint, session: FramedSession | None, reply: OpenReply) -> None:
        self._opening = None
        if session is not None:
            if self._runtime.table is self._table or self._is_still_allowed():
                self._relay_tunnel(endpoint, session)
                return
            session.abort("the documents changed")
            self._entrance.tunnels.discard(session)
            self._decide()
            return
        self._attempt_failed(endpoint, reply.code, f"agent of node {endpoint.node}: {reply.reason}")
        if reply.code in _FINAL:
            self._refuse(reply.code, "destination", reply.reason)
        elif not self._expired():
            self._try_next()

    def _is_still_allowed(self) -> bool:
        """Whether the documents that came meanwhile allow it too; no if that cannot be said at once."""
        return self._entrance.admission.inline_only and isinstance(self._decide_inline(), Admitted)

    def _attempt_failed(self, endpoint: Endpoint, code: ReplyCode, reason: str) -> None:
        assert self._attempts is not None
        assert self._balancer is not None
        logger.info("connection %s: %s for pod %s: %s", self._id.hex(), code.name, endpoint.pod, reason)
        self._failure = Refusal(code, "routing", reason)
        if code is ReplyCode.CONNECTION_LIMIT:
            self._attempts.limited()
            self._balancer.on_alive(endpoint)
        elif code in _EJECTS:
            self._balancer.on_failed(endpoint, time.monotonic())

    def _deadline(self) -> float:
        limit: float = self._runtime.settings.connect_timeout
        if self._request.timeout is not None:
            limit = min(limit, self._request.timeout)
        return self._started + limit

    def _expired(self) -> bool:
        """Whether the whole deadline has passed; then the client is told so."""
        if time.monotonic() < self._deadline():
            return False
        last = f"; last: {self._failure.reason}" if self._failure else ""
        self._refuse(ReplyCode.TIMEOUT, "agent", f"not established within {self._deadline() - self._started:g} s{last}")
        return True

    # --- over --------------------------------------------------------------------------------------------------------

    def _relay_local(self, endpoint: Endpoint, service: socket.socket) -> None:
        runtime, route = self._runtime, self._route
        assert route is not None
        connection = self._connection(endpoint, local=True)
        try:
            hand_off = may_hand_off(runtime, route, self._request, self._handshake, self._client)
        except Exception:
            service.close()
            runtime.slots.give_back(endpoint.uid, route.service.service)
            raise
        if hand_off:
            self._hand_off(connection, service)
            return
        if not self._end(ReplyCode.OK):
            service.close()
            runtime.slots.give_back(endpoint.uid, route.service.service)
            return
        runtime.opened(connection, self._balancer)
        book: Booking = partial(runtime.closed, connection, self._balancer)
        try:
            early, idle = self._handshake.trailing_data, route.idle_timeout
            client, book = self._filtered(connection, book)
            gone = partial(runtime.give_back_slot, connection)
            connection.relay = relay_plain(
                runtime.reactor, client, service, early=early, idle_timeout=idle, on_close=book, on_hang_up=gone
            )
        except Exception as error:  # noqa: BLE001 - the kernel's refusal, or a handshake plugin's mistake: no slot may stay taken
            service.close()
            self._not_relayed(book, error)

    def _not_relayed(self, book: Booking, error: Exception) -> None:
        """A connection that was just established cannot go on: end it, and say why."""
        if isinstance(error, OSError):
            why = f"{error.strerror}"
            logger.error("connection %s is cut: %s: raise the agent's limit of open files", self._id.hex(), why)
        else:
            why = f"internal error: {type(error).__name__}"
            logger.error("connection %s is cut: its handshake plugin failed", self._id.hex(), exc_info=error)
        self._client.close()
        book(RelayResult("error", f"cannot be relayed: {why}", "agent", 0, 0))

    def _hand_off(self, connection: Connection, service: socket.socket) -> None:
        """Send the service's socket to the client and keep the connection it asked on as the lease."""
        runtime, client = self._runtime, self._client
        connection.transport = "handoff"
        told = self._end(ReplyCode.OK, descriptor_follows=True)
        if not told or not give_descriptor(runtime, client, service, self._id):
            client.close()
            service.close()
            runtime.slots.give_back(connection.endpoint.uid, connection.service.service)
            return
        runtime.opened(connection, self._balancer)
        on_close = partial(runtime.closed, connection, self._balancer)
        try:
            connection.relay = Lease(
                runtime.reactor,
                self._id,
                client,
                service,
                self._handshake,
                on_close=on_close,
                on_ignored=partial(runtime.metrics.revocation_ignored, connection),
            )
        except OSError as error:
            self._not_relayed(on_close, error)

    def _filtered(self, connection: Connection, book: Booking) -> tuple[socket.socket, Booking]:
        """The client's end for the relay, and what that calls at its end: with the filter in between if there is one."""
        if not has_filter(type(self._handshake)):
            return self._client, book
        assert isinstance(self._handshake, FilteringHandshake)
        if not self._handshake.filtering:
            return self._client, book
        made = Filter(self._runtime, self._client, self._handshake, self._id, connection.cut)
        return made.end, made.until_delivered(book)

    def _relay_tunnel(self, endpoint: Endpoint, session: FramedSession) -> None:
        runtime, route, tunnels = self._runtime, self._route, self._entrance.tunnels
        assert route is not None
        connection = self._connection(endpoint, local=False)
        if not self._end(ReplyCode.OK):
            session.abort("the client is gone")
            tunnels.discard(session)
            return
        runtime.opened(connection, self._balancer)
        book: Booking = partial(runtime.closed, connection, self._balancer)
        try:
            early, idle = self._handshake.trailing_data, route.idle_timeout
            client, book = self._filtered(connection, book)
            on_close = partial(self._tunnel_closed, tunnels, session, book)
            connection.relay = session.relay(client, early=early, idle_timeout=idle, on_close=on_close)
        except Exception as error:  # noqa: BLE001 - the kernel's refusal, or a handshake plugin's mistake: nothing may stay open
            session.abort("the client's agent cannot relay it")
            tunnels.discard(session)
            self._not_relayed(book, error)

    @staticmethod
    def _tunnel_closed(
        tunnels: OutboundTunnels, session: FramedSession, book: Booking, result: RelayResult, reusable: bool
    ) -> None:
        book(result)
        if reusable:
            tunnels.release(session)
        else:
            tunnels.discard(session)

    def _connection(self, endpoint: Endpoint, *, local: bool) -> Connection:
        request, placement = self._request, self._entrance.pod.placement
        assert placement.meshlet is not None
        assert self._balancer is not None
        now = time.monotonic()
        self._balancer.on_connected(endpoint, now - self._tried, now)
        return Connection(
            id=self._id,
            reporter="both" if local else "source",
            transport="local" if local else "tunnel",
            source=placement.meshlet,
            source_pod=placement.pod,
            service=request.service_id,
            endpoint=endpoint,
            peer="" if local else endpoint.address,
            policy=self._policy,
            connect_seconds=now - self._started,
        )

    def _refuse(self, code: ReplyCode, policy: str, reason: str) -> None:
        version = self._endpoint.version if self._endpoint else None
        record_refusal(self._runtime, self._entrance.pod, self._id, self._request.service_id, code, policy, reason, version)
        if self._end(code, reason):
            close_after_reply(self._client)

    def _gone(self, reason: str) -> None:
        """The client left: there is nobody to reply to."""
        logger.debug("connection %s: %s", self._id.hex(), reason)
        self._release()
        self._client.close()

    def turn_away(self) -> None:
        """Give up on this client because the agent stops."""
        self._refuse(ReplyCode.DRAINING, "agent", "this agent is shutting down")

    def failed(self, error: Exception) -> None:
        """Give up on this client because of a bug."""
        logger.error("connection %s to %s failed", self._id.hex(), self._request.service_id, exc_info=error)
        if not self._over:
            self._refuse(ReplyCode.INTERNAL_ERROR, "agent", f"internal error: {type(error).__name__}; see the agent's log")

    def _on_hangup(self, _events: int) -> None:
        code, why = ReplyCode.INTERNAL_ERROR, "the client closed before it was answered"
        record_refusal(self._runtime, self._entrance.pod, self._id, self._request.service_id, code, "client", why)
        self._gone("client closed while its connection was being made")

    def _end(self, code: ReplyCode, reason: str = "", *, descriptor_follows: bool = False) -> bool:
        """Leave this object's care: stop waiting, reply. False if the client is gone (its socket is then closed)."""
        self._release()
        endpoint = self._endpoint if code is ReplyCode.OK else None
        details = ReplyDetails(
            connection_id=self._id,
            version=endpoint.version if endpoint else None,
            endpoint=str(endpoint.pod) if endpoint else "",
            retry_after=retry_after(code),
            descriptor_follows=descriptor_follows,
        )
        return send_reply(self._client, self._handshake, code, reason, details)

    def _release(self) -> None:
        if not self._over:
            self._over = True
            self._runtime.establishing -= 1
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if self._opening is not None:
            self._opening.cancel()
            self._opening = None
        if self._watched:
            self._runtime.reactor.remove(self._client.fileno())
            self._runtime.connecting.remove(self)
            self._watched = False

    def _wait(self) -> None:
        """From here on something else is waited for; notice if the client closes meanwhile."""
        if not self._watched:
            self._runtime.reactor.add(self._client.fileno(), _HANGUP_ONLY, self._on_hangup)
            self._runtime.connecting.add(self)
            self._watched = True
