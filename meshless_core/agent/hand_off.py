"""When a client gets the service's socket itself, and how it is given: what `client_connection` does instead of a relay.

Must not decide whether the client may connect: that was decided before. What follows is the `Lease`.
"""

from __future__ import annotations

import errno
import logging
import socket
import time
from typing import Final

from meshless_core.agent.runtime import AgentRuntime
from meshless_core.hookspecs import HandshakeProtocol, HandshakeRequest, LeaseHandshake
from meshless_core.routing import Route

__all__ = ["NO_HAND_OFF_SECONDS", "give_descriptor", "may_hand_off"]

logger = logging.getLogger(__name__)

NO_HAND_OFF_SECONDS: Final = 10.0
"""How long an agent relays instead after the kernel refused to carry a descriptor."""

_CLIENT_GONE: Final = frozenset({errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN})


def may_hand_off(
    runtime: AgentRuntime, route: Route, request: HandshakeRequest, handshake: HandshakeProtocol, client: socket.socket
) -> bool:
    """Whether the client gets the service's socket itself: it can, nobody forbids it, and nothing has to see the bytes.

    Args:
        runtime: the agent's shared state.
        route: the service; the endpoint is on this node.
        request: the client's.
        handshake: it spoke.
        client: its socket; asked whether anything came behind the request.
    """
    return (
        request.accepts_descriptor
        and route.hand_off
        and runtime.settings.hand_off
        and route.idle_timeout is None
        and isinstance(handshake, LeaseHandshake)
        and not handshake.trailing_data
        and time.monotonic() >= runtime.no_hand_off_until
        and _is_silent(client)
    )


def _is_silent(client: socket.socket) -> bool:
    """Whether nothing came behind the request, neither a byte nor an end-of-file: those are the service's, and are relayed."""
    try:
        client.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    except OSError:
        return False  # it is gone; the reply will tell
    return False


def give_descriptor(runtime: AgentRuntime, client: socket.socket, service: socket.socket, connection_id: bytes) -> bool:
    """Send the descriptor that the reply announced. False if that failed: the client closes and tries again.

    Args:
        runtime: the agent's shared state; after a failure of the kernel it relays for a while.
        client: where the reply went; stays the caller's.
        service: connected; stays the caller's too.
        connection_id: for the log.
    """
    try:
        socket.send_fds(client, [b"\0"], [service.fileno()])
    except OSError as error:
        if error.errno in _CLIENT_GONE:
            logger.debug("connection %s: client gone before its descriptor: %s", connection_id.hex(), error.strerror)
            return False
        # ETOOMANYREFS: somebody lets many descriptors lie unread. It must not cost the others more than this connection.
        logger.error(
            "connection %s: its descriptor cannot be sent (%s); for %g s all connections are relayed",
            connection_id.hex(),
            error.strerror,
            NO_HAND_OFF_SECONDS,
        )
        runtime.no_hand_off_until = time.monotonic() + NO_HAND_OFF_SECONDS
        return False
    return True
