"""A handed-over connection as the agent sees it: not its bytes, only its lease, and a duplicate of its socket.

The client got the service's socket itself; the connection it asked on stays open. While it is open the connection counts for
`maxConn`, is listed, is re-checked when policy changes, and gets notices. When the client closes it, or dies, it is over at
once. The duplicate is never read or written: it tells when the service closed, and shutting it down ends the connection for
whoever holds the socket, so that a client can keep nothing it may not have (ADR-0085). What hand-off cannot enforce is in
`docs/explanation/hand-off.md`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import select
import socket
import time
from collections.abc import Callable
from typing import Final

from meshless_core.hookspecs import HandshakeProtocol, LeaseHandshake
from meshless_core.relay import OnClose, Reactor, RelayResult
from meshless_core.relay.interface import MAX_REASON_CHARS, EndedBy, Outcome

__all__ = ["REVOCATION_SECONDS", "Lease"]

logger = logging.getLogger(__name__)

REVOCATION_SECONDS: Final = 1.0
"""How long a client may take to end a revoked connection itself, and tell its application why, before the agent cuts it."""

_HANGUP_ONLY: Final = 0  # EPOLLHUP and EPOLLERR are always reported
_READ_BYTES: Final = 16


class Lease:
    """Satisfies `meshless_core.relay.Relay`, for a connection whose bytes do not pass here: both counters stay 0.

    Args:
        reactor: watches the lease and the service's socket.
        connection_id: for the log.
        client: the connection the client asked on; owned by the lease.
        service: the agent's duplicate of the socket that was handed over; likewise.
        handshake: knows how notices are said; a `LeaseHandshake` too.
        on_close: told once how it ended; never before the constructor returned.
        on_ignored: told once if the client went on after it was told to stop.
        patience: seconds, see `REVOCATION_SECONDS`.

    Raises:
        OSError: the kernel does not watch one of the sockets; both are closed then, and the connection is cut.
    """

    bytes_to_service = 0
    bytes_to_client = 0

    def __init__(
        self,
        reactor: Reactor,
        connection_id: bytes,
        client: socket.socket,
        service: socket.socket,
        handshake: HandshakeProtocol,
        *,
        on_close: OnClose,
        on_ignored: Callable[[], None],
        patience: float = REVOCATION_SECONDS,
    ) -> None:
        assert isinstance(handshake, LeaseHandshake)
        self._reactor = reactor
        self._id = connection_id
        self._client = client
        self._service: socket.socket | None = service
        self._handshake: LeaseHandshake = handshake
        self._on_close = on_close
        self._on_ignored = on_ignored
        self._patience = patience
        self._revoked = ""
        self._timer: asyncio.TimerHandle | None = None
        self.closed = False
        self.last_activity = time.monotonic()
        try:
            reactor.add(client.fileno(), select.EPOLLIN, self._readable, self._failed)
            reactor.add(service.fileno(), _HANGUP_ONLY, self._service_over, self._failed)
        except OSError:
            reactor.remove(client.fileno())
            self._cut()
            client.close()
            raise

    @property
    def revoked(self) -> bool:
        """Whether the client was told to stop and has not done it yet."""
        return bool(self._revoked)

    def abort(self, reason: str) -> None:
        """Tell the client to stop now, which can tell its application why. One that does not stop is cut and reported."""
        if self.closed or self._revoked:
            return
        self._revoked = reason[:MAX_REASON_CHARS] or "revoked"
        self._timer = self._reactor.loop.call_later(self._patience, self._ignored)
        self._notify("revoked", self._revoked)

    def drain(self, reason: str) -> None:
        """Ask the client to finish what it has begun, and then to connect again."""
        if not self.closed:
            self._notify("drain", reason)

    def let_go(self) -> None:
        """The agent leaves: the connection goes on without a lease, unless it was to stop."""
        if self.closed:
            return
        if self._revoked:
            self._finish("aborted", self._revoked, "agent")
            return
        self._leave()
        self._finish("closed", "the agent stopped, the connection goes on", "agent")

    def _notify(self, kind: str, text: str) -> None:
        """Say it once, if the client takes it: nothing is owed to one that is gone or that does not read."""
        try:
            notice = self._handshake.notice(kind, text)
            taken = self._client.send(notice) == len(notice)
        except BlockingIOError:
            taken = False
        except OSError as error:
            logger.debug("connection %s: %s notice not sent: %s", self._id.hex(), kind, error.strerror)
            return
        except Exception:
            # who tells us to go on, or to stop, tells others after us
            logger.exception("connection %s: the handshake plugin failed to say a %s notice", self._id.hex(), kind)
            return
        if not taken:
            logger.warning("connection %s: the client does not read the notices on its lease", self._id.hex())

    def _readable(self, _events: int) -> None:
        try:
            data = self._client.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""  # a reset: it left with a notice unread
        if self._revoked:
            self._finish("aborted", self._revoked, "agent")
        elif data:
            self._notify("revoked", "bytes came on the lease; they belong on the socket that was handed over")
            self._finish("error", "the client sent bytes on its lease", "client")
        else:
            self._finish("closed", "", "client")

    def _service_over(self, _events: int) -> None:
        """Both directions have ended, so the connection is over, whatever the client has still to read."""
        self._leave()
        if self._revoked:
            self._finish("aborted", self._revoked, "agent")
            return
        try:
            client_left = not self._client.recv(_READ_BYTES, socket.MSG_PEEK)
        except OSError:
            client_left = False
        self._finish("closed", "", "client" if client_left else "service")

    def _ignored(self) -> None:
        self._timer = None
        logger.error(
            "connection %s: the client did not stop within %g s after its handed-over connection was revoked (%s) and is cut; "
            "its SDK has to watch the lease, or the service needs handOff: false",
            self._id.hex(),
            self._patience,
            self._revoked,
        )
        self._on_ignored()
        self._finish("aborted", f"{self._revoked}; the client ignored it"[:MAX_REASON_CHARS], "agent")

    def _failed(self, error: Exception) -> None:
        if not self.closed:
            self._finish("error", f"internal error: {type(error).__name__}", "agent")

    def _leave(self) -> None:
        """Close our duplicate and nothing else: the socket goes on for whoever holds it."""
        service, self._service = self._service, None
        if service is not None:
            self._reactor.remove(service.fileno())
            service.close()

    def _cut(self) -> None:
        """End the connection for everybody who holds its socket."""
        if self._service is not None:
            with contextlib.suppress(OSError):  # the service is gone already
                self._service.shutdown(socket.SHUT_RDWR)
            self._leave()

    def _finish(self, outcome: Outcome, reason: str, ended_by: EndedBy) -> None:
        if self.closed:
            return
        self.closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._cut()
        self._reactor.remove(self._client.fileno())
        self._client.close()
        # who holds the connection holds this object, whose callbacks hold the connection: leave no cycle to the collector
        on_close = self._on_close
        del self._on_close, self._on_ignored
        on_close(RelayResult(outcome, reason, ended_by, 0, 0))
