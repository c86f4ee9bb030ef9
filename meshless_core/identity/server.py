"""The control plane's side of the issuer protocol: one socket per node, leaves for that node's meshlets only.

The socket *is* the identity of the node: who may connect to it is decided by the directory it lies in, so a node that has been
taken over gets leaves for the meshlets that have a pod there, and no others. Everything an unknown peer can spend is bounded:
bytes, seconds, connections. This module must not decide which meshlets live where (`allowed` does).
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import logging
import socket
from collections.abc import Callable
from typing import Final

from meshless_core.errors import IdentityError, RemoteProtocolError
from meshless_core.identity import wire
from meshless_core.identity.authority import CertificateAuthority
from meshless_core.identity.certificates import LEAF_LIFETIME
from meshless_core.types import MeshletRef

__all__ = ["IssuerServer"]

logger = logging.getLogger(__name__)

REQUEST_TIMEOUT: Final = 5.0
"""Seconds a connection has to send its whole request, and to take the reply."""

MAX_CONNECTIONS: Final = 32
"""Open connections per node, watches included; one more gets BUSY."""

REFRESH_INTERVAL: Final = 1.0
"""Seconds between looks at the authority's directory: how long a rotation made by the CLI takes to reach the agents."""


class IssuerServer:
    """Serves any number of nodes. Life: `start`, `add_node` and `remove_node` at will, `stop`."""

    def __init__(
        self,
        authority: CertificateAuthority,
        allowed: Callable[[str], frozenset[MeshletRef]],
        *,
        leaf_lifetime: datetime.timedelta = LEAF_LIFETIME,
        request_timeout: float = REQUEST_TIMEOUT,
        max_connections: int = MAX_CONNECTIONS,
        refresh_interval: float = REFRESH_INTERVAL,
    ) -> None:
        """Prepare a server; nothing happens before `start`.

        Args:
            authority: signs the leaves.
            allowed: for a node's name, the meshlets that have a pod on it now. Asked for each leaf.
            leaf_lifetime: life of a leaf.
            request_timeout: seconds for a whole request, and for taking each reply.
            max_connections: open connections per node.
            refresh_interval: seconds between looks at the authority's directory.
        """
        self._authority = authority
        self._allowed = allowed
        self._leaf_lifetime = leaf_lifetime
        self._request_timeout = request_timeout
        self._max_connections = max_connections
        self._refresh_interval = refresh_interval
        self._nodes: dict[str, asyncio.Task[None]] = {}
        self._watchers: set[asyncio.Event] = set()
        self._published = authority.bundle_pem
        self._refresher: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to follow the authority's directory."""
        self._refresher = asyncio.create_task(self._follow_authority(), name="issuer-refresh")

    async def stop(self) -> None:
        """Close every listener and connection. Works also if `start` was never called."""
        tasks = list(self._nodes.values())
        if self._refresher is not None:
            tasks.append(self._refresher)
            self._refresher = None
        self._nodes.clear()
        await _cancel(tasks)

    def add_node(self, node: str, listener: socket.socket) -> None:
        """Serve `node` on a listening Unix socket; takes ownership of it.

        Raises:
            IdentityError: the node is served already.
        """
        if node in self._nodes:
            raise IdentityError(f"node {node} has an issuer socket already; remove the node first")
        listener.setblocking(False)
        self._nodes[node] = asyncio.create_task(self._serve(node, listener), name=f"issuer-{node}")

    async def remove_node(self, node: str) -> None:
        """Stop serving `node` and close its connections; no error if it is not served."""
        task = self._nodes.pop(node, None)
        if task is not None:
            await _cancel([task])

    def publish(self) -> None:
        """Push the bundle to the watching agents now, if it has changed, instead of at the next look at the directory."""
        try:
            self._authority.refresh()
        except IdentityError as error:
            logger.error("the certificate authority cannot be read again, going on with what is known: %s", error)
        if self._published != self._authority.bundle_pem:
            self._published = self._authority.bundle_pem
            logger.info("trust bundle of %s changed, telling %d agents", self._authority.trust_domain, len(self._watchers))
            for changed in self._watchers:
                changed.set()

    async def _follow_authority(self) -> None:
        while True:
            self.publish()
            await asyncio.sleep(self._refresh_interval)

    async def _serve(self, node: str, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        connections: set[asyncio.Task[None]] = set()
        # Not loop.sock_accept: cancelled in the wrong moment it loses an accepted connection (CPython 3.11).
        readable = asyncio.Event()
        loop.add_reader(listener.fileno(), readable.set)
        try:
            while True:
                await readable.wait()
                readable.clear()
                try:
                    connection, _ = listener.accept()
                except BlockingIOError:
                    continue
                except OSError as error:
                    loop.remove_reader(listener.fileno())  # out of descriptors: do not spin until one is free
                    logger.error("cannot accept leaf requests of node %s: %s", node, error)
                    await asyncio.sleep(self._refresh_interval)
                    loop.add_reader(listener.fileno(), readable.set)
                    continue
                busy = len(connections) >= self._max_connections
                task = asyncio.create_task(self._handle(node, connection, busy), name=f"issuer-{node}-connection")
                connections.add(task)
                task.add_done_callback(connections.discard)
        finally:
            loop.remove_reader(listener.fileno())
            listener.close()
            await _cancel(connections)

    async def _handle(self, node: str, connection: socket.socket, busy: bool) -> None:
        with connection:
            connection.setblocking(False)
            try:
                if busy:
                    reply = wire.ErrorReply(wire.IssuerCode.BUSY, f"node {node} has {self._max_connections} connections open")
                    await self._send(connection, reply)
                    return
                async with asyncio.timeout(self._request_timeout):
                    payload = await self._receive(connection)
                if payload is None:
                    return
                match wire.decode_request(payload):
                    case wire.IssueRequest() as request:
                        await self._send(connection, self._issue(node, request))
                    case wire.WatchRequest():
                        await self._watch(connection)
            except RemoteProtocolError as error:
                logger.warning("node %s sent a bad leaf request: %.256s", node, error)
                await self._send_last(connection, wire.ErrorReply(wire.IssuerCode(error.code), str(error)))
            except TimeoutError:
                logger.warning("node %s did not finish a leaf request within %g s", node, self._request_timeout)
                await self._send_last(connection, wire.ErrorReply(wire.IssuerCode.TIMEOUT, "the request took too long"))
            except OSError as error:
                logger.debug("an issuer connection of node %s broke: %s", node, error)

    def _issue(self, node: str, request: wire.IssueRequest) -> wire.Reply:
        try:
            allowed = self._allowed(node)
        except Exception:
            logger.exception("cannot tell which meshlets live on node %s, so no leaf is issued", node)
            return wire.ErrorReply(wire.IssuerCode.INTERNAL, "the issuer cannot tell which meshlets live on this node")
        if request.identity.ref not in allowed:
            logger.warning("node %s asked for %s, which has no pod there", node, request.identity)
            return wire.ErrorReply(wire.IssuerCode.DENIED, f"{request.identity.ref} has no pod on node {node}")
        try:
            chain = self._authority.issue(request.request_pem, request.identity, lifetime=self._leaf_lifetime)
        except IdentityError as error:
            logger.warning("no leaf for %s on node %s: %s", request.identity, node, error)
            return wire.ErrorReply(wire.IssuerCode.BAD_REQUEST, str(error))
        logger.info("issued a leaf for %s to node %s", request.identity, node)
        return wire.IssueReply(chain, self._authority.bundle_pem)

    async def _watch(self, connection: socket.socket) -> None:
        changed = asyncio.Event()
        self._watchers.add(changed)
        closed = asyncio.create_task(self._wait_closed(connection))
        try:
            while not closed.done():
                changed.clear()
                await self._send(connection, wire.BundleReply(self._authority.bundle_pem))
                news = asyncio.create_task(changed.wait())
                try:
                    await asyncio.wait({news, closed}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    news.cancel()
        finally:
            self._watchers.discard(changed)
            await _cancel([closed])

    async def _wait_closed(self, connection: socket.socket) -> None:
        """Return when the agent closes, or says anything more, which the protocol does not allow."""
        with contextlib.suppress(OSError):
            await asyncio.get_running_loop().sock_recv(connection, 1)

    async def _receive(self, connection: socket.socket) -> bytes | None:
        frames = wire.FrameReader(wire.MAX_REQUEST_BYTES)
        while (payload := frames.next_payload()) is None:
            data = await asyncio.get_running_loop().sock_recv(connection, frames.wanted)
            if not data:
                return None
            frames.receive_data(data)
        return payload

    async def _send(self, connection: socket.socket, reply: wire.Reply) -> None:
        async with asyncio.timeout(self._request_timeout):
            await asyncio.get_running_loop().sock_sendall(connection, wire.encode(reply))

    async def _send_last(self, connection: socket.socket, reply: wire.Reply) -> None:
        try:
            await self._send(connection, reply)
        except (OSError, TimeoutError) as error:
            logger.debug("an agent did not take the issuer's refusal: %s", error)


async def _cancel(tasks: list[asyncio.Task[None]] | set[asyncio.Task[None]]) -> None:
    pending = list(tasks)
    for task in pending:
        task.cancel()
    for outcome in await asyncio.gather(*pending, return_exceptions=True):
        if isinstance(outcome, Exception):
            logger.error("a task of the issuer failed: %r", outcome)
