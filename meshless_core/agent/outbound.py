"""Tunnels to other agents: sessions that are kept warm and used again after a clean end.

A session belongs to one key: the credentials it was made with, the peer agent's address and the target's identity. So a rotated
or revoked identity never meets an old session. Idle sessions are bounded per key, newest first, and closed after
`agent.tunnel_idle`. A session that ended in any other way than cleanly is thrown away.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Final

import attrs

from meshless_core.agent.runtime import AgentRuntime
from meshless_core.errors import TransportError
from meshless_core.hookspecs import CredentialsSource, Transport
from meshless_core.relay import FramedSession
from meshless_core.tunnel import OpenReply, OpenRequest
from meshless_core.types import Identity, ReplyCode

__all__ = ["OutboundTunnels", "TunnelOpening"]

logger = logging.getLogger(__name__)


@attrs.frozen
class _Key:
    serial: str
    address: str
    source: Identity
    target: Identity


@attrs.define(eq=False)
class _Idle:
    session: FramedSession
    since: float


_LEAF_POLL_SECONDS: Final = 0.02

OnOpened = Callable[[FramedSession | None, OpenReply], None]
"""Called once with the session and an OK reply, or without a session and the reason."""


class OutboundTunnels:
    """The client's side of tunnels: opens them, pools them.

    Args:
        runtime: the agent's shared state.
        transport: makes secure streams.
        credentials: what this agent may present.
    """

    def __init__(self, runtime: AgentRuntime, transport: Transport, credentials: CredentialsSource) -> None:
        self.runtime = runtime
        self._transport = transport
        self.credentials = credentials
        self._idle: dict[_Key, list[_Idle]] = {}
        self._keys: dict[FramedSession, _Key] = {}
        self._sweeper: asyncio.TimerHandle | None = None

    @property
    def idle(self) -> int:
        """Idle sessions in the pool."""
        return sum(map(len, self._idle.values()))

    @property
    def active(self) -> int:
        """Sessions carrying a connection, or opening one."""
        return len(self._keys) - self.idle

    def open(
        self, address: str, source: Identity, target: Identity, request: OpenRequest, timeout: float, on_opened: OnOpened
    ) -> TunnelOpening:
        """Ask the agent at `address` for a connection.

        Args:
            address: `host:port` of the other agent.
            source: the client's meshlet.
            target: the service's meshlet; the peer's leaf has to be it.
            request: what to ask for.
            timeout: seconds until it counts as failed.
            on_opened: told once how it went, unless the opening is cancelled. Never called before this method returned.
        """
        return TunnelOpening(self, address, source, target, request, timeout, on_opened)

    def release(self, session: FramedSession) -> None:
        """Take back a session whose connection ended cleanly; it is kept if its key is still current and there is room."""
        key = self._keys.get(session)
        if key is None:
            session.close()
            return
        credentials = self.credentials.get(key.source)
        pool = self._idle.setdefault(key, [])
        if (
            self.runtime.draining
            or credentials is None
            or credentials.serial != key.serial
            or len(pool) >= self.runtime.settings.tunnel_pool_size
            or session.state != "idle"
        ):
            self.discard(session)
            return
        pool.append(_Idle(session, self.runtime.loop.time()))
        if self._sweeper is None:
            self._sweeper = self.runtime.loop.call_later(self.runtime.settings.tunnel_idle, self._sweep)

    def discard(self, session: FramedSession) -> None:
        """Close a session and forget it."""
        self._forget(session)
        session.close()

    def flush(self) -> None:
        """Close all idle sessions whose credentials are no longer current: after a rotation."""
        for key, pool in list(self._idle.items()):
            credentials = self.credentials.get(key.source)
            if credentials is None or credentials.serial != key.serial:
                for idle in list(pool):
                    self.discard(idle.session)

    def close(self) -> None:
        """Close everything, also sessions in use."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        for session in list(self._keys):
            self.discard(session)

    def take(self, key: _Key) -> FramedSession | None:
        """A warm session for `key`, None if there is none."""
        pool = self._idle.get(key)
        while pool:
            session = pool.pop().session
            if not pool:
                del self._idle[key]
            if session.state == "idle" and time.time() < session.stream.expires:
                return session
            self.discard(session)
        return None

    async def connect(self, address: str, source: Identity, target: Identity) -> FramedSession:
        """A fresh session, not pooled yet.

        Raises:
            TransportError: it could not be made.
        """
        try:
            stream = await self._transport.connect(address, source=source, target=target)
        except TransportError as error:
            self.runtime.metrics.handshake("client", error.reason)
            raise
        self.runtime.metrics.handshake("client", "ok")
        session = FramedSession(self.runtime.reactor, stream, role="client")
        session.on_lost = partial(self._lost, session)
        self._keys[session] = _Key(stream.serial, address, source, target)
        return session

    def _lost(self, session: FramedSession, reason: str) -> None:
        logger.debug("idle tunnel session lost: %s", reason)
        self.discard(session)

    def _forget(self, session: FramedSession) -> None:
        key = self._keys.pop(session, None)
        if key is None:
            return
        pool = [idle for idle in self._idle.get(key, ()) if idle.session is not session]
        if pool:
            self._idle[key] = pool
        else:
            self._idle.pop(key, None)

    def _sweep(self) -> None:
        self._sweeper = None
        limit = self.runtime.settings.tunnel_idle
        now = self.runtime.loop.time()
        oldest = now
        for pool in list(self._idle.values()):
            for idle in list(pool):
                if now - idle.since >= limit:
                    self.discard(idle.session)
                else:
                    oldest = min(oldest, idle.since)
        if self._idle:
            self._sweeper = self.runtime.loop.call_later(max(oldest + limit - now, 0.05), self._sweep)


class TunnelOpening:
    """One request to one other agent: a warm session if there is one, a fresh one if not or if the warm one was dead."""

    def __init__(
        self,
        tunnels: OutboundTunnels,
        address: str,
        source: Identity,
        target: Identity,
        request: OpenRequest,
        timeout: float,
        on_opened: OnOpened,
    ) -> None:
        self._tunnels = tunnels
        self._request = request
        self._on_opened: OnOpened | None = on_opened
        self._session: FramedSession | None = None
        self._task: asyncio.Task[None] | None = None
        self._address, self._source, self._target = address, source, target
        self._timer = tunnels.runtime.loop.call_later(timeout, self._timed_out, timeout)
        credentials = tunnels.credentials.get(source)
        if credentials is None:
            self._task = tunnels.runtime.spawn(self._await_leaf(), "await-leaf")
            return
        warm = tunnels.take(_Key(credentials.serial, address, source, target))
        if warm is not None:
            self._open(warm, fresh=False)
        else:
            self._connect()

    def cancel(self) -> None:
        """Give up: nobody is told. An opening session is closed, since its state at the peer is unknown."""
        self._on_opened = None
        self._finish(None, OpenReply(ReplyCode.TIMEOUT, "cancelled"))

    async def _await_leaf(self) -> None:
        """The first connection of a new pod may be faster than its meshlet's leaf."""
        while self._tunnels.credentials.get(self._source) is None:  # noqa: ASYNC110 - a CredentialsSource has no event
            await asyncio.sleep(_LEAF_POLL_SECONDS)
        self._task = None
        self._connect()

    def _connect(self) -> None:
        self._task = self._tunnels.runtime.spawn(self._connect_fresh(), "tunnel-connect")

    async def _connect_fresh(self) -> None:
        try:
            session = await self._tunnels.connect(self._address, self._source, self._target)
        except TransportError as error:
            self._task = None
            self._finish(None, OpenReply(ReplyCode.TUNNEL_FAILED, f"{error.reason}: {error}"[:256]))
            return
        except Exception as error:
            logger.exception("transport failed to connect to %s", self._address)
            self._task = None
            self._finish(None, OpenReply(ReplyCode.INTERNAL_ERROR, f"transport failed: {type(error).__name__}"))
            return
        self._task = None
        self._open(session, fresh=True)

    def _open(self, session: FramedSession, *, fresh: bool) -> None:
        self._session = session
        session.open(self._request, partial(self._replied, session, fresh))

    def _replied(self, session: FramedSession, fresh: bool, reply: OpenReply | Exception) -> None:
        if session is not self._session:
            return
        if isinstance(reply, OpenReply):
            if reply.code is ReplyCode.OK:
                self._session = None
                self._finish(session, reply)
            else:
                self._session = None
                self._tunnels.release(session)
                self._finish(None, reply)
            return
        self._session = None
        self._tunnels.discard(session)
        if fresh:
            self._finish(None, OpenReply(ReplyCode.TUNNEL_FAILED, f"the other agent broke off: {reply}"[:256]))
        else:
            # the peer may have closed a warm session at the very moment we took it; nothing has moved, so use a fresh one
            self._connect()

    def _timed_out(self, timeout: float) -> None:
        if self._tunnels.credentials.get(self._source) is None:
            reason = f"this agent holds no leaf for {self._source}: is the issuer running"
            self._finish(None, OpenReply(ReplyCode.TUNNEL_FAILED, reason))
            return
        self._finish(None, OpenReply(ReplyCode.TIMEOUT, f"agent at {self._address} did not answer within {timeout:g} s"))

    def _finish(self, session: FramedSession | None, reply: OpenReply) -> None:
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if self._session is not None:
            self._tunnels.discard(self._session)
            self._session = None
        on_opened, self._on_opened = self._on_opened, None
        if on_opened is not None:
            on_opened(session, reply)
        elif session is not None:
            self._tunnels.discard(session)
