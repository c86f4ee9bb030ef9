"""The node agent: puts the parts together, starts and stops them in order.

Start: documents from disk, admin, the pods and their leaves, then tunnels and the pods' listeners: nothing accepts before it
can answer, connects wait in the backlogs. Drain: the listeners first (connects wait for the next agent), then wait for
connections, then close.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import attrs

from meshless_core.agent.access_log import AccessLog
from meshless_core.agent.admin import AdminServer
from meshless_core.agent.admission import Admission
from meshless_core.agent.authorizers import AuthorizerPanel
from meshless_core.agent.client_side import ClientSide
from meshless_core.agent.connections import ConnectionTable
from meshless_core.agent.documents import DocumentStore
from meshless_core.agent.gauges import read_gauges
from meshless_core.agent.hook_times import HookTimes
from meshless_core.agent.inbound import InboundTunnels, bound_address, listen_for_tunnels
from meshless_core.agent.lease import Lease
from meshless_core.agent.measured_plugins import MeasuredBus, MeasuredCanary, MeasuredHandshakes, MeasuredTransport
from meshless_core.agent.metrics import AgentMetrics
from meshless_core.agent.outbound import OutboundTunnels
from meshless_core.agent.recheck import Recheck
from meshless_core.agent.report import AgentReport
from meshless_core.agent.runtime import AgentRuntime, LocalPod
from meshless_core.agent.slots import Slots
from meshless_core.agent.workers.place import WorkerPlace
from meshless_core.config import AgentSettings
from meshless_core.documents import Document
from meshless_core.errors import Problem
from meshless_core.hookspecs import (
    Authorizer,
    Bus,
    CanarySelector,
    CredentialsSource,
    HandshakeProtocol,
    InlineAuthorizer,
    Transport,
)
from meshless_core.identity import LeafIssuer, LeafStore
from meshless_core.plugins import Kind
from meshless_core.relay import Reactor
from meshless_core.routing import Balancers, BalancerSettings, compile_routes
from meshless_core.socketd import PodSockets, SocketdClient
from meshless_core.types import Identity, MeshletRef

__all__ = ["Agent", "AgentParts"]

logger = logging.getLogger(__name__)

_VERSION: Final = "0.1.0"
_PATIENCE: Final = 3.0  # seconds a starting agent leaves connects in the backlog, less than a client waits for its reply
_TUNNEL_SHARE: Final = 2 / 3  # of agent.endpoint_timeout, for tunnels: other agents still have time to hear why not


@attrs.frozen(kw_only=True)
class AgentParts:
    """What plugins contribute to an agent.

    Attributes:
        authorizers: name and object of each, in order.
        canary: the canary selector.
        handshakes: per first byte, the factory of the handshake that claims it.
        transport: makes the tunnel transport from the agent's credentials.
        bus: where documents come from.
        plugins: rows for `/status`: kind, name, distribution, version.
        handshake_names: per first byte, the name of the plugin that claims it; for metrics.
        problem_of: by a plugin's name, makes a problem of it from a message.
    """

    authorizers: Sequence[tuple[str, Authorizer | InlineAuthorizer]]
    canary: CanarySelector
    handshakes: Mapping[int, Callable[[], HandshakeProtocol]]
    transport: Callable[[CredentialsSource], Transport]
    bus: Bus
    plugins: Sequence[Mapping[str, object]] = ()
    handshake_names: Mapping[int, str] = attrs.field(factory=dict)
    problem_of: Mapping[str, Callable[[str], Problem]] = attrs.field(factory=dict)

    def name_of(self, kind: Kind) -> str:
        """Name of the plugin that is the only one of its kind; the kind's own name if the rows do not tell."""
        return next((str(row["name"]) for row in self.plugins if row["kind"] == kind), str(kind))


class Agent:
    """One node's agent. Life: `start`, then `drain` and `stop`; `stop` works after a half-failed `start` too.

    Args:
        node: name of the node.
        trust_domain: the mesh's trust domain.
        settings: the section `agent` of the configuration.
        parts: what plugins contribute.
        socketd: path of socketd's control socket.
        issuer: where leaves come from.
        write_access_log: takes complete lines; None for no access log.
        place: which of several workers this is; None if it is the node's only process.
    """

    def __init__(
        self,
        node: str,
        *,
        trust_domain: str,
        settings: AgentSettings,
        parts: AgentParts,
        socketd: Path,
        issuer: LeafIssuer,
        write_access_log: Callable[[str], object] | None = None,
        place: WorkerPlace | None = None,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.node = node
        self._settings = settings
        self._place = place
        state_dir = Path(settings.state_dir)
        self.leaves = LeafStore(state_dir, trust_domain, issuer, on_rotated=self._rotated)
        times = HookTimes()
        bus = MeasuredBus(parts.name_of(Kind.BUS), parts.bus, times)
        self.documents = DocumentStore(node, bus, state_dir, self._documents_changed)
        connections = ConnectionTable()
        metrics = AgentMetrics(
            connections,
            gauges=lambda: read_gauges(self, self._clients.accepting),
            clock=time.monotonic,
            build={"version": _VERSION, "node": node},
            hooks=times,
        )
        self.runtime = AgentRuntime(
            node=node,
            trust_domain=trust_domain,
            settings=settings,
            loop=loop,
            reactor=Reactor(loop, budget=float(settings.relay_budget)),
            panel=AuthorizerPanel(
                parts.authorizers,
                timeout=float(settings.authorize_timeout),
                times=times,
                problem_of=parts.problem_of,
            ),
            canary=MeasuredCanary(parts.name_of(Kind.CANARY), parts.canary, times),
            handshakes=parts.handshakes,
            handshake_names=parts.handshake_names,
            receive_data=MeasuredHandshakes(parts.handshakes, parts.handshake_names, times).receive_data,
            balancers=Balancers(
                random.random,
                BalancerSettings(ejection_base=float(settings.ejection_base), ejection_max=float(settings.ejection_max)),
            ),
            connections=connections,
            metrics=metrics,
            access_log=AccessLog(write_access_log, node=node),
            slots=Slots() if place is None else place.slots,
            workers=1 if place is None else place.count,
        )
        transport = MeasuredTransport(parts.name_of(Kind.TRANSPORT), parts.transport(self.leaves), times)
        self._transport = transport
        admission = Admission(self.runtime)
        self.outbound = OutboundTunnels(self.runtime, transport, self.leaves)
        self.inbound = InboundTunnels(self.runtime, admission, transport, self.leaves)
        self._clients = ClientSide(self.runtime, admission, self.outbound)
        self._recheck = Recheck(self.runtime, admission)
        self.socketd = SocketdClient(node, socketd, on_added=self._pod_added, on_removed=self._pod_removed)
        self.tunnel_address = ""
        self._pods_known = False
        report = AgentReport(self, parts.plugins)
        self._admin = AdminServer(settings.admin or f"unix:{state_dir / 'admin.sock'}", report.handlers())

    @property
    def serving(self) -> bool:
        """Whether socketd's first snapshot was taken over."""
        return self._pods_known

    async def start(self) -> None:
        """Start everything; returns when all listeners are there. They accept a moment later, see `_open`.

        Raises:
            MeshlessError: what cannot be started, naming the setting or the path.
        """
        os.makedirs(self._settings.state_dir, mode=0o700, exist_ok=True)
        await self.runtime.panel.start()
        await self.leaves.start()
        await self.documents.start()
        listener = self._place.tunnel_listener if self._place else listen_for_tunnels(self._settings.tunnel_address)
        self.tunnel_address = bound_address(self._settings.tunnel_address, listener)
        self.inbound.start(listener)
        await self._admin.start()
        await self.socketd.start()
        self.runtime.spawn(self._open(), "open")
        logger.info("agent of node %s listens for tunnels on %s", self.node, self.tunnel_address)

    async def drain(self) -> None:
        """Accept nothing new, wait for live connections until the grace period is over, then cut the rest."""
        self.runtime.draining = True
        self._clients.stop()
        self.inbound.stop_accepting()
        for connection in self.runtime.connections:
            if isinstance(connection.relay, Lease):
                connection.relay.drain("the agent is shutting down")
                connection.relay.let_go()
        self.runtime.requesting.turn_away()
        live = len(self.runtime.connections) + len(self.runtime.connecting)
        timeout = float(self._settings.drain_timeout)
        if live and timeout > 0:
            logger.info("draining: %d connections have %g s", live, timeout)
            try:
                async with asyncio.timeout(timeout):
                    await self.runtime.connecting.wait_empty()  # first, since they become connections
                    await self.runtime.connections.wait_empty()
            except TimeoutError:
                logger.warning("draining: %d connections did not end in time and are cut", len(self.runtime.connections))
        self.runtime.connecting.turn_away()
        for connection in self.runtime.connections:
            connection.cut("draining", "the agent is shutting down")

    async def stop(self) -> None:
        """Release everything."""
        self.runtime.draining = True
        await self.socketd.stop()
        self._clients.stop()
        self.runtime.requesting.turn_away()
        self.runtime.connecting.turn_away()
        for connection in self.runtime.connections:
            if isinstance(connection.relay, Lease):
                connection.relay.drain("the agent is shutting down")
                connection.relay.let_go()
            else:
                connection.cut("draining", "the agent is shutting down")
        self.inbound.close()
        self.outbound.close()
        await self.runtime.cancel_tasks()
        await self._admin.stop()
        await self.documents.stop()
        await self.leaves.stop()
        await self.runtime.panel.stop()
        for pod in self.runtime.pods.values():
            pod.close()
        self.runtime.pods.clear()
        self.runtime.access_log.flush()
        self.runtime.reactor.close()

    # --- changes -----------------------------------------------------------------------------------------------------

    def _documents_changed(self, documents: Mapping[str, Document]) -> None:
        runtime = self.runtime
        runtime.table = compile_routes(self.node, documents.values(), runtime.table)
        runtime.balancers.retain(runtime.table)
        self._require_leaves()
        self._recheck.run()

    def _pod_added(self, pod: PodSockets) -> None:
        self.runtime.pods[pod.placement.uid] = LocalPod(pod)
        self._clients.add(pod)
        self._require_leaves()

    def _pod_removed(self, uid: str) -> None:
        self._clients.remove(uid)
        pod = self.runtime.pods.pop(uid, None)
        if pod is not None:
            pod.close()
        # later, since the same pod may come back at once with the sockets of another socketd: its leaf is not to be dropped
        self.runtime.loop.call_soon(self._require_leaves)

    async def _open(self) -> None:
        """Accept when connections can be made; or after a while all the same, to say NOT_READY instead of nothing."""
        patience = _PATIENCE
        for_tunnels = min(patience, _TUNNEL_SHARE * self._settings.endpoint_timeout)
        able = self.runtime.spawn(self._await_pods(), "await-pods")
        await asyncio.wait({able}, timeout=for_tunnels)
        self.inbound.open()
        await asyncio.wait({able}, timeout=patience - for_tunnels)
        if not able.done():
            logger.warning("accepting although not ready yet; /readyz says why")
        self._clients.open()

    async def _await_pods(self) -> None:
        """Return when the pods of this node are known, with documents and leaves for them."""
        await self.socketd.wait_snapshot()
        self._pods_known = True
        self._require_leaves()
        await self.documents.wait_available()
        await self.leaves.ready()

    def _require_leaves(self) -> None:
        """Hold leaves for the meshlets of our own pods, no others; not before the first snapshot says which they are."""
        if self._pods_known:
            self.leaves.require(self.meshlets())

    def meshlets(self) -> set[MeshletRef]:
        """The meshlets of the pods on this node."""
        return {pod.placement.meshlet for pod in self.runtime.pods.values() if pod.placement.meshlet is not None}

    def _rotated(self, identity: Identity) -> None:
        logger.info("credentials of %s changed; live connections go on, warm tunnels are closed", identity)
        self.runtime.loop.call_soon(self._flush_tunnels)

    def _flush_tunnels(self) -> None:
        self.outbound.flush()
        self.inbound.flush()
