"""A handed-over connection as the agent sees it: not its bytes, only its lease.

The client got the service's socket itself; the connection it asked on stays open. While it is open the connection counts for
`maxConn`, is listed, is re-checked when policy changes, and gets notices. When the client closes it, or dies, it is over at
once. What a hostile client could do, and how hand-off is switched off, is in `docs/explanation/hand-off.md`.
"""

from __future__ import annotations

import asyncio
import logging
import select
import socket
import time
from typing import Final

from meshless_core.hookspecs import HandshakeProtocol, LeaseHandshake
from meshless_core.relay import OnClose, Reactor, RelayResult
from meshless_core.relay.interface import EndedBy, Outcome

__all__ = ["Lease"]

logger = logging.getLogger(__name__)

_REVOCATION_SECONDS: Final = 5.0
_MAX_REASON: Final = 256


class Lease:
    """Satisfies `meshless_core.relay.Relay`, for a connection whose bytes do not pass here: both counters stay 0.

    Args:
        reactor: watches the lease.
        connection_id: for the log.
        client: the connection the client asked on; owned by the lease.
        handshake: knows how notices are said; a `LeaseHandshake` too.
        on_close: told once how it ended.
    """

    bytes_to_service = 0
    bytes_to_client = 0

    def __init__(
        self,
        reactor: Reactor,
        connection_id: bytes,
        client: socket.socket,
        handshake: HandshakeProtocol,
        on_close: OnClose,
    ) -> None:
        assert isinstance(handshake, LeaseHandshake)
        self._reactor = reactor
        self._id = connection_id
        self._client = client
        self._handshake: LeaseHandshake = handshake
        self._on_close = on_close
        self._revoked = ""
        self._timer: asyncio.TimerHandle | None = None
        self.ignored_revocation = False
        """Whether the client went on after it was told to stop."""
        self.closed = False
        self.last_activity = time.monotonic()
        reactor.add(client.fileno(), select.EPOLLIN, self._readable, self._failed)

    def abort(self, reason: str) -> None:
        """Tell the client to stop now. It is over when the client closes the lease; if it does not, that is reported."""
        if self.closed or self._revoked:
            return
        self._revoked = reason[:_MAX_REASON]
        if self._notify("revoked", reason):
            self._timer = self._reactor.loop.call_later(_REVOCATION_SECONDS, self._ignored)

    def drain(self, reason: str) -> None:
        """Ask the client to finish and connect again."""
        if not self.closed:
            self._notify("drain", reason)

    def let_go(self) -> None:
        """The agent leaves: the connection goes on without a lease."""
        self._finish("closed", "the agent stopped, the connection goes on", "agent")

    def _notify(self, kind: str, text: str) -> bool:
        try:
            notice = self._handshake.notice(kind, text[:_MAX_REASON])
            if self._client.send(notice) == len(notice):
                return True
            logger.warning("connection %s: the client does not read the notices on its lease", self._id.hex())
        except OSError as error:
            self._finish("reset", f"client: {error.strerror}", "client")
        return False

    def _readable(self, _events: int) -> None:
        try:
            data = self._client.recv(16)
        except BlockingIOError:
            return
        except OSError as error:
            self._finish("reset", f"client: {error.strerror}", "client")
            return
        if data:
            self._finish("error", "the client sent bytes on its lease", "client")
        elif self._revoked:
            self._finish("aborted", self._revoked, "agent")
        else:
            self._finish("closed", "", "client")

    def _ignored(self) -> None:
        self._timer = None
        self.ignored_revocation = True
        logger.error(
            "connection %s: the client goes on %g s after its handed-over connection was revoked (%s); "
            "set handOff: false on services whose clients are not trusted to stop",
            self._id.hex(),
            _REVOCATION_SECONDS,
            self._revoked,
        )

    def _failed(self, error: Exception) -> None:
        if not self.closed:
            self._finish("error", f"internal error: {error}", "agent")

    def _finish(self, outcome: Outcome, reason: str, ended_by: EndedBy) -> None:
        if self.closed:
            return
        self.closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._reactor.remove(self._client.fileno())
        self._client.close()
        self._on_close(RelayResult(outcome, reason, ended_by, 0, 0))
