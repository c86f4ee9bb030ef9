"""Tunnels from other agents: accept, authenticate, keep. What they are asked for is `inbound_request`'s.

Before authentication a connection costs a bounded amount of memory and time and is counted; when there are too many, the
oldest goes: an agent is authenticated in milliseconds, so who is old is the one to lose, and a flood of silent connections
locks nobody out. Afterwards a session may idle no longer than twice what the other side keeps it.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import select
import socket
import time
from functools import partial
from typing import Final

import attrs

from meshless_core.agent.admission import Admission
from meshless_core.agent.inbound_request import InboundRequest
from meshless_core.agent.runtime import AgentRuntime
from meshless_core.errors import ConfigError, Problem, TransportError
from meshless_core.hookspecs import CredentialsSource, Transport
from meshless_core.relay import FramedSession
from meshless_core.tunnel import OpenRequest

__all__ = ["InboundTunnels", "bound_address", "listen_for_tunnels"]

logger = logging.getLogger(__name__)

_BACKLOG: Final = 4096
_ACCEPTS_PER_WAKE: Final = 64
_PAUSE_SECONDS: Final = 0.1
_TURN_SECONDS: Final = 0.005
_NOT_LISTENING: Final = {
    errno.EADDRINUSE: "another process listens there: stop it, or choose another port",
    errno.EADDRNOTAVAIL: "no network interface of this machine has that address",
    errno.EACCES: "no permission: choose a port from 1024",
}
_PATIENT_SECONDS: Final = 2.0  # several hundred handshakes
_CROWD_LOG_SECONDS: Final = 10.0


@attrs.define(eq=False)
class _Peer:
    """A session another agent opened."""

    session: FramedSession
    address: str
    idle_since: float
    request: InboundRequest | None = None


class InboundTunnels:
    """The server's side of tunnels.

    Args:
        runtime: the agent's shared state.
        admission: decides.
        transport: makes secure streams.
        credentials: what this agent presents; its serials tell whether a session is still current.
    """

    def __init__(
        self, runtime: AgentRuntime, admission: Admission, transport: Transport, credentials: CredentialsSource
    ) -> None:
        self._runtime = runtime
        self._admission = admission
        self._transport = transport
        self._credentials = credentials
        self._listener: socket.socket | None = None
        self._accepting = False  # whether the listener is watched
        self._paused: asyncio.TimerHandle | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._authenticating: dict[asyncio.Task[None], None] = {}  # the oldest first
        self._leaving: set[asyncio.Task[None]] = set()  # crowded out, but their descriptors are not closed yet
        self._patient_until = 0.0
        self._crowded_out = 0
        self._crowd_logged = float("-inf")
        self._peers: dict[FramedSession, _Peer] = {}
        self._idle: dict[_Peer, None] = {}  # the one that is idle the longest first

    @property
    def idle(self) -> int:
        """Sessions without a connection."""
        return len(self._idle)

    @property
    def active(self) -> int:
        """Sessions with a connection, or opening one."""
        return len(self._peers) - len(self._idle)

    @property
    def authenticating(self) -> int:
        """Connections that are not authenticated yet."""
        return len(self._authenticating)

    def start(self, listener: socket.socket) -> None:
        """Take over `listener`, see `listen_for_tunnels`. Until `open` other agents' connects wait in its backlog."""
        listener.setblocking(False)
        self._listener = listener
        self._sweeper = self._runtime.loop.call_later(self._runtime.settings.tunnel_idle, self._sweep)

    def open(self) -> None:
        """Begin to accept; does nothing after `stop_accepting`.

        Who waited may be more than there are places, and none of them is slow: for as long as they go on waiting, the next ones
        are taken when a place is free, and nobody is cut for them. A flood gains no more from it than that short while.
        """
        patience = min(self._runtime.settings.endpoint_timeout, _PATIENT_SECONDS)
        self._patient_until = self._runtime.loop.time() + patience
        self._resume()

    def stop_accepting(self) -> None:
        """Close the listener; sessions go on."""
        if self._listener is not None:
            if self._paused is not None:
                self._paused.cancel()
                self._paused = None
            self._pause()
            self._listener.close()
            self._listener = None

    def flush(self) -> None:
        """Close idle sessions whose credentials are no longer current; ones in use end after their connection."""
        for peer in list(self._idle):
            if not self._is_current(peer.session):
                self._drop(peer)

    def close(self) -> None:
        """Close everything, also sessions in use."""
        self.stop_accepting()
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        for peer in list(self._peers.values()):
            self._drop(peer)

    # --- authentication ----------------------------------------------------------------------------------------------

    def _on_ready(self, _events: int) -> None:
        limit = self._runtime.settings.max_tunnels_unauthenticated
        if len(self._leaving) >= self._few:
            self._pause()  # until the first has left, see `_left`
            return
        most = min(_ACCEPTS_PER_WAKE if self._runtime.workers == 1 else 1, self._few)  # as for clients: workers take turns
        if self._runtime.loop.time() < self._patient_until:
            most = min(most, limit - len(self._authenticating))
            if most <= 0:
                self._pause()
                self._paused = self._runtime.loop.call_later(_TURN_SECONDS, self._resume)
                return
        for _ in range(most):
            if self._listener is None:
                return
            try:
                connection, _address = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    logger.error("cannot accept tunnels: %s; raise the limit of open files", error.strerror)
                    self._pause()
                    self._paused = self._runtime.loop.call_later(_PAUSE_SECONDS, self._resume)
                    return
                continue
            connection.setblocking(False)
            if len(self._authenticating) >= limit:
                self._crowd_out(limit)
            task = self._runtime.spawn(self._authenticate(connection), "tunnel-accept")
            self._authenticating[task] = None
            task.add_done_callback(partial(_close_if_cancelled, connection))

    def _crowd_out(self, limit: int) -> None:
        """Cut the oldest connection that is not authenticated yet: the transport closes what it gives up."""
        oldest = next(iter(self._authenticating))
        del self._authenticating[oldest]
        self._leaving.add(oldest)
        oldest.add_done_callback(self._left)
        oldest.cancel()
        self._runtime.metrics.handshake("server", "too_many_unauthenticated")
        self._crowded_out += 1
        now = self._runtime.loop.time()
        if now - self._crowd_logged >= _CROWD_LOG_SECONDS:
            logger.warning(
                "tunnel refused: too_many_unauthenticated: agent.max_tunnels_unauthenticated of %d is reached, the oldest are "
                "cut (%d so far); find out who connects to the tunnel port without authenticating",
                limit,
                self._crowded_out,
            )
            self._crowd_logged = now

    @property
    def _few(self) -> int:
        """Not all places in one go: who was let in gets a turn before the next ones come."""
        return max(self._runtime.settings.max_tunnels_unauthenticated // 4, 1)

    def _left(self, task: asyncio.Task[None]) -> None:
        """Who was crowded out has closed its descriptor."""
        self._leaving.discard(task)
        if self._listener is not None and not self._accepting and self._paused is None:
            self._resume()

    def _pause(self) -> None:
        """Accept no more until `_resume`."""
        if self._accepting:
            assert self._listener is not None
            self._accepting = False
            self._runtime.reactor.remove(self._listener.fileno())

    def _resume(self) -> None:
        self._paused = None
        if self._listener is not None and not self._accepting:
            self._accepting = True
            self._runtime.reactor.add(self._listener.fileno(), select.EPOLLIN, self._on_ready)

    async def _authenticate(self, connection: socket.socket) -> None:
        address = _peer_address(connection)
        try:
            stream = await self._transport.accept(connection)
        except TransportError as error:
            self._runtime.metrics.handshake("server", error.reason)
            logger.info("tunnel refused: %s: %s", error.reason, str(error)[:256])
            return
        except Exception:
            self._runtime.metrics.handshake("server", "internal_error")
            logger.exception("transport failed to accept a tunnel")
            connection.close()
            return
        finally:
            self._authenticating.pop(asyncio.current_task(), None)  # type: ignore[arg-type]  # a coroutine has a task
        self._runtime.metrics.handshake("server", "ok")
        session = FramedSession(self._runtime.reactor, stream, role="server")
        peer = self._peers[session] = _Peer(session, address, self._runtime.loop.time())
        session.on_lost = partial(self._lost, peer)
        session.serve(partial(self._opened, peer))
        self._rest(peer)

    def _rest(self, peer: _Peer) -> None:
        """The session has no connection now. An agent may hold leaves and still mean harm: idle sessions are bounded too."""
        peer.idle_since = self._runtime.loop.time()
        self._idle.pop(peer, None)
        self._idle[peer] = None
        if len(self._idle) > self._runtime.settings.max_tunnels_idle:
            oldest = next(iter(self._idle))
            logger.debug("idle tunnel session from %s is closed for a newer one", oldest.session.stream.peer)
            self._drop(oldest)

    # --- connections -------------------------------------------------------------------------------------------------

    def _opened(self, peer: _Peer, request: OpenRequest) -> None:
        self._idle.pop(peer, None)
        if time.time() >= peer.session.stream.expires:
            # An honest agent has renewed its leaf long ago: it takes a fresh session, which it would have needed anyway.
            logger.warning(
                "tunnel session from %s is cut: asked for a connection after its leaf expired", peer.session.stream.peer
            )
            self._drop(peer)
            return
        peer.request = InboundRequest(
            self._runtime,
            self._admission,
            peer.session,
            peer.address,
            request,
            on_refused=partial(self._refused, peer),
            on_closed=partial(self._closed, peer),
        )
        peer.request.begin()

    def _refused(self, peer: _Peer) -> None:
        peer.request = None
        if peer.session in self._peers:
            self._rest(peer)

    def _closed(self, peer: _Peer, reusable: bool) -> None:
        peer.request = None
        if not reusable or not self._is_current(peer.session):
            self._drop(peer)
        else:
            self._rest(peer)

    # --- end ---------------------------------------------------------------------------------------------------------

    def _is_current(self, session: FramedSession) -> bool:
        credentials = self._credentials.get(session.stream.local)
        if time.time() >= session.stream.expires:
            return False
        return credentials is not None and credentials.serial == session.stream.serial

    def _lost(self, peer: _Peer, reason: str) -> None:
        logger.debug("tunnel session from %s ended: %s", peer.session.stream.peer, reason)
        self._drop(peer)

    def _drop(self, peer: _Peer) -> None:
        self._peers.pop(peer.session, None)
        self._idle.pop(peer, None)
        if peer.request is not None:
            peer.request.cancel()
            peer.request = None
        peer.session.close()

    def _sweep(self) -> None:
        runtime = self._runtime
        limit = 2 * runtime.settings.tunnel_idle
        now = runtime.loop.time()
        for peer in list(self._idle):
            if now - peer.idle_since < limit:
                break
            self._drop(peer)
        self._sweeper = runtime.loop.call_later(runtime.settings.tunnel_idle, self._sweep)


def listen_for_tunnels(address: str) -> socket.socket:
    """A listening socket for tunnels.

    Args:
        address: `host:port`; port 0 takes a free one.

    Raises:
        ConfigError: the address cannot be listened on.
    """
    host, _, port = address.rpartition(":")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host.strip("[]"), int(port)), family=family, backlog=_BACKLOG)
    except (OSError, ValueError, OverflowError) as error:
        why = _NOT_LISTENING.get(getattr(error, "errno", None) or 0, f"{error}; write <host>:<port>")
        raise ConfigError([Problem("$.agent.tunnel_address", f"cannot listen on {address!r}: {why}")]) from error


def bound_address(address: str, listener: socket.socket) -> str:
    """`address` as it was asked for, with the port that `listener` really has."""
    return f"{address.rpartition(':')[0]}:{listener.getsockname()[1]}"


def _close_if_cancelled(connection: socket.socket, task: asyncio.Task[None]) -> None:
    """A task that was cancelled before its first step never gave the connection to the transport."""
    if task.cancelled():
        connection.close()


def _peer_address(connection: socket.socket) -> str:
    try:
        host, port, *_ = connection.getpeername()
    except OSError:
        return ""
    return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
