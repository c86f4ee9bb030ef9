"""What the parts of one agent share: settings, tables and counters. Plain state, no behaviour beyond bookkeeping."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Mapping

import attrs

from meshless_core.agent.access_log import AccessLog
from meshless_core.agent.authorizers import AuthorizerPanel
from meshless_core.agent.connections import Connection, ConnectionIds, ConnectionTable
from meshless_core.agent.measured_plugins import MeasuredCanary
from meshless_core.agent.metrics import AgentMetrics
from meshless_core.agent.service_socket import ServiceSockets
from meshless_core.agent.slots import SlotCounter, Slots
from meshless_core.agent.unanswered import Unanswered
from meshless_core.config import AgentSettings
from meshless_core.documents import PodPlacement
from meshless_core.hookspecs import HandshakeProtocol, HandshakeRequest
from meshless_core.relay import Reactor, RelayResult
from meshless_core.routing import Balancer, Balancers, RoutingTable
from meshless_core.socketd import PodSockets

__all__ = ["AgentRuntime", "LocalPod"]

logger = logging.getLogger(__name__)


@attrs.define(eq=False)
class LocalPod:
    """A pod on this node.

    Attributes:
        sockets: its listener and server folder, as socketd handed them over.
        placement: who it is.
        service_sockets: its application's sockets.
    """

    sockets: PodSockets
    placement: PodPlacement = attrs.field(init=False)
    service_sockets: ServiceSockets = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.placement = self.sockets.placement
        self.service_sockets = ServiceSockets(self.sockets.server_folder)

    def close(self) -> None:
        """Close every descriptor of the pod."""
        self.service_sockets.close()
        self.sockets.close()


@attrs.define(eq=False, kw_only=True)
class AgentRuntime:
    """One agent's shared state.

    Attributes:
        node: name of the node.
        trust_domain: the mesh's trust domain.
        settings: the agent's settings.
        loop: the event loop of everything but slow authorizers.
        reactor: the data path's loop within it.
        panel: the authorizers.
        canary: the canary selector.
        handshakes: factory of the handshake that claims a first byte.
        handshake_names: name of the plugin that claims a first byte.
        receive_data: gives a client's bytes to its handshake, measuring some of the calls.
        balancers: what is known about endpoints, per service.
        slots: `maxConn` counts of local pods.
        connections: live connections.
        metrics: counters.
        access_log: one line per connection.
        pods: local pods by uid.
        table: what the documents say; None until there was a complete set.
        draining: whether the agent is shutting down.
        establishing: connections between a complete request and the reply.
        handshaking: connections whose request is not complete.
        workers: processes that accept from the same listeners, this one included.
        no_hand_off_until: until then every connection is relayed, in seconds of `time.monotonic()`.
        requesting: clients that have not said everything yet.
        connecting: clients whose connection is being made.
    """

    node: str
    trust_domain: str
    settings: AgentSettings
    loop: asyncio.AbstractEventLoop
    reactor: Reactor
    panel: AuthorizerPanel
    canary: MeasuredCanary
    handshakes: Mapping[int, Callable[[], HandshakeProtocol]]
    handshake_names: Mapping[int, str]
    receive_data: Callable[[HandshakeProtocol, bytes], HandshakeRequest | None]
    balancers: Balancers
    connections: ConnectionTable
    metrics: AgentMetrics
    access_log: AccessLog
    slots: SlotCounter = attrs.field(factory=Slots)
    ids: ConnectionIds = attrs.field(factory=ConnectionIds)
    pods: dict[str, LocalPod] = attrs.field(factory=dict)
    table: RoutingTable | None = None
    draining: bool = False
    establishing: int = 0
    handshaking: int = 0
    workers: int = 1
    no_hand_off_until: float = 0.0
    requesting: Unanswered = attrs.field(factory=Unanswered)
    connecting: Unanswered = attrs.field(factory=Unanswered)
    _tasks: set[asyncio.Task[None]] = attrs.field(factory=set)

    def spawn(self, coroutine: Coroutine[object, object, None], name: str) -> asyncio.Task[None]:
        """Run a coroutine in the background; an exception it lets out is a bug and is logged."""
        task = self.loop.create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def opened(self, connection: Connection, balancer: Balancer | None = None) -> None:
        """Book an established connection; `balancer` is the one that ordered its endpoint, None on the server's side."""
        self.connections.add(connection)
        self.metrics.opened(connection)
        if balancer is not None:
            balancer.on_opened(connection.endpoint)

    def closed(self, connection: Connection, balancer: Balancer | None, result: RelayResult) -> None:
        """Book the end of an established connection."""
        self.connections.remove(connection)
        self.metrics.closed(connection, result, time.monotonic() - connection.opened)
        if balancer is not None:
            balancer.on_closed(connection.endpoint)
        self.give_back_slot(connection)
        self.access_log.closed(connection, result)

    def give_back_slot(self, connection: Connection) -> None:
        """The service is rid of this connection, though bytes of it may still be on their way to the client. Idempotent."""
        if connection.endpoint.node == self.node and connection.holds_slot:
            connection.holds_slot = False
            self.slots.give_back(connection.endpoint.uid, connection.service.service)

    async def cancel_tasks(self) -> None:
        """Cancel and await everything spawned."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("%s failed", task.get_name(), exc_info=error)
