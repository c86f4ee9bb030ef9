r"""Dial and serve Meshless services by name: standard library only.

    import meshless_sdk

    with meshless_sdk.connect("http.cart.shop") as connection:   # an ordinary blocking socket
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")

    reader, writer = await meshless_sdk.open_connection("http.cart.shop")

    listener = meshless_sdk.listen("http")                       # an ordinary listening socket

The names exported here are public; the modules behind them may change. Importing this package must stay cheap: asyncio is
imported by the first `open_connection`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshless_sdk.dialler import Dialer
from meshless_sdk.dialling import connect
from meshless_sdk.errors import (
    AccessDenied,
    AgentTimeout,
    AgentUnavailable,
    ConnectError,
    ConnectionLimit,
    Draining,
    HandshakeTimeout,
    InternalError,
    InvalidArgument,
    InvalidServiceId,
    ListenError,
    MalformedRequest,
    MeshlessError,
    NoEndpoint,
    NotReady,
    Overloaded,
    ProtocolError,
    ProxyHeaderError,
    ServiceNotFound,
    ServiceRefused,
    TunnelFailed,
    UnknownClient,
    UnknownReplyCode,
    UnsupportedVersion,
)
from meshless_sdk.listening import listen
from meshless_sdk.mesh_socket import MeshSocket
from meshless_sdk.proxy_protocol import Peer
from meshless_sdk.retrying import Retry

if TYPE_CHECKING:
    import asyncio

__all__ = [
    "AccessDenied",
    "AgentTimeout",
    "AgentUnavailable",
    "ConnectError",
    "ConnectionLimit",
    "Dialer",
    "Draining",
    "HandshakeTimeout",
    "InternalError",
    "InvalidArgument",
    "InvalidServiceId",
    "ListenError",
    "MalformedRequest",
    "MeshSocket",
    "MeshlessError",
    "NoEndpoint",
    "NotReady",
    "Overloaded",
    "Peer",
    "ProtocolError",
    "ProxyHeaderError",
    "Retry",
    "ServiceNotFound",
    "ServiceRefused",
    "TunnelFailed",
    "UnknownClient",
    "UnknownReplyCode",
    "UnsupportedVersion",
    "connect",
    "listen",
    "open_connection",
]


async def open_connection(
    service_id: str,
    *,
    connect_timeout: float | None = 5.0,
    handshake_timeout: float | None = 15.0,
    path: str | None = None,
    limit: int = 2**16,
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Dial a service; the returned streams are the connection to it.

    Cancelling it leaves nothing open.

    Args:
        service_id: `<service>.<meshlet>.<namespace>`.
        connect_timeout: seconds to wait until the agent takes the connection, while its backlog is full; None waits for ever.
        handshake_timeout: seconds to wait for the reply after that, None waits for ever.
        path: the agent's socket; `$MESHLESS_DIR/client/meshless`, or `/meshlet/client/meshless` without that variable, if None.
        limit: bytes the reader buffers at most, as in `asyncio.open_connection`.

    Raises:
        InvalidServiceId: `service_id` cannot be one; nothing was sent.
        AgentUnavailable: no agent took the connection, or it went away before it replied.
        HandshakeTimeout: no reply in time.
        ConnectError: the agent refused; one subclass per reply code, `retryable` says whether to try again.
        ProtocolError: what answered is not an agent.
        OSError: this process has no descriptors or memory left for a socket.
    """
    from meshless_sdk import streams  # late on purpose: it imports asyncio

    return await streams.open_connection(
        service_id, connect_timeout=connect_timeout, handshake_timeout=handshake_timeout, path=path, limit=limit
    )
