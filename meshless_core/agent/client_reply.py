"""What a client is told, and what is written down about it: the one place where replies leave the agent."""

from __future__ import annotations

import contextlib
import logging
import socket
from typing import Final

from meshless_core.agent.runtime import AgentRuntime
from meshless_core.hookspecs import HandshakeProtocol, ReplyDetails
from meshless_core.socketd import PodSockets
from meshless_core.types import ReplyCode, ServiceId

__all__ = ["close_after_reply", "record_refusal", "retry_after", "send_reply"]

logger = logging.getLogger(__name__)

_DRAIN_BYTES: Final = 64 * 1024
_MOST_DRAINS: Final = 8  # two socket buffers

_RETRY_AFTER: Final = {
    ReplyCode.DRAINING: 0.0,  # the next agent takes over the listener
    ReplyCode.TIMEOUT: 0.0,  # it has waited enough
    ReplyCode.TUNNEL_FAILED: 0.5,
    ReplyCode.SERVICE_REFUSED: 0.5,
    ReplyCode.NO_ENDPOINT: 1.0,
    ReplyCode.NOT_READY: 1.0,
    ReplyCode.CONNECTION_LIMIT: 1.0,
    ReplyCode.OVERLOADED: 2.0,
    ReplyCode.SERVICE_NOT_FOUND: 5.0,
    ReplyCode.INTERNAL_ERROR: 5.0,
}
"""Seconds after which trying again makes sense, for the retryable codes."""


def retry_after(code: ReplyCode) -> float | None:
    """Advice for a refused client in seconds, None where trying again is of no use."""
    return _RETRY_AFTER.get(code)


def send_reply(
    client: socket.socket, handshake: HandshakeProtocol | None, code: ReplyCode, text: str, details: ReplyDetails
) -> bool:
    """Send the reply; False if the client is gone, whose socket is then closed.

    Args:
        client: the client's socket.
        handshake: speaks to it; None before one was chosen, then the reply is that of version 1.
        code: the verdict.
        text: for people. A denied client gets a general one instead: which rule said no may tell what exists.
        details: for handshakes that have room for it.
    """
    if code is ReplyCode.ACCESS_DENIED:
        text = "a policy said no: list the service under spec.client, and see that it allows you; the log says which rule"
    try:
        reply = bytes((1, code)) if handshake is None else handshake.reply(code, text, details)
        if not reply or client.send(reply) == len(reply):
            return True
        logger.warning("connection %s: the reply did not fit the socket", details.connection_id.hex())
    except OSError as error:
        logger.debug("connection %s: client gone before the reply: %s", details.connection_id.hex(), error.strerror)
    except Exception:
        kind = type(handshake)
        what = f"{kind.__module__}.{kind.__qualname__}"
        logger.exception("handshake %s failed to reply on connection %s", what, details.connection_id.hex())
    client.close()
    return False


def close_after_reply(client: socket.socket) -> None:
    """Close so that the client reads the reply and then end-of-file, not a reset, although it may have sent more."""
    with contextlib.suppress(OSError):
        client.shutdown(socket.SHUT_RD)  # it sends no more from here on
        for _ in range(_MOST_DRAINS):
            if len(client.recv(_DRAIN_BYTES)) < _DRAIN_BYTES:
                break
    client.close()


def record_refusal(
    runtime: AgentRuntime,
    pod: PodSockets,
    connection_id: bytes,
    service: ServiceId | None,
    code: ReplyCode,
    policy: str,
    reason: str,
    version: str | None = None,
) -> None:
    """Count and log a request that became no connection; `version` is the one that was chosen, if that was reached.

    A service that does not exist is counted as unknown: its name is the client's.
    """
    placement = pod.placement
    known = service if service and runtime.table and runtime.table.route(service) else None
    runtime.metrics.refused("source", placement.meshlet, known, code, policy, version)
    runtime.access_log.refused(
        connection_id, "source", placement.meshlet, placement.pod, service, code, policy, reason, version
    )
