r"""Dial and serve Meshless services by name: standard library only.

    import meshless_sdk

    with meshless_sdk.connect("http.cart.shop") as connection:   # an ordinary blocking socket
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")

    reader, writer = await meshless_sdk.open_connection("http.cart.shop")

    dialer = meshless_sdk.Dialer(deadline=3, sticky_key=b"4711") # retries, one deadline, says more
    connection = dialer.connect("http.cart.shop")

    listener = meshless_sdk.listen("http")                       # an ordinary listening socket
    cut = meshless_sdk.serve(handler, "http")                    # a thread per connection, until SIGTERM
    server = await meshless_sdk.start_server(handler, "http")    # asyncio

The names exported here are public; the modules behind them may change. Importing this package must stay cheap: it brings the
errors and what `connect` needs, and everything else when its name is first used; asyncio with the first `open_connection`.
"""

from __future__ import annotations

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

TYPE_CHECKING = False  # importing typing costs as much as all the rest
if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable

    from meshless_sdk.asyncio_serving import AsyncServer, StreamConnection
    from meshless_sdk.dialler import Dialer
    from meshless_sdk.listening import listen
    from meshless_sdk.mesh_socket import MeshSocket
    from meshless_sdk.proxy_protocol import Peer
    from meshless_sdk.retrying import Retry
    from meshless_sdk.serving import Connection, Server, serve

__all__ = [
    "AccessDenied",
    "AgentTimeout",
    "AgentUnavailable",
    "AsyncServer",
    "ConnectError",
    "Connection",
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
    "Server",
    "ServiceNotFound",
    "ServiceRefused",
    "StreamConnection",
    "TunnelFailed",
    "UnknownClient",
    "UnknownReplyCode",
    "UnsupportedVersion",
    "connect",
    "listen",
    "open_connection",
    "serve",
    "start_server",
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
        connect_timeout: seconds to wait until the agent takes the connection: while it does not listen yet, because a pod may
            start before its socket is there, and while its backlog is full. 0 tries once, None waits for ever.
        handshake_timeout: seconds to wait for the reply after that, None waits for ever.
        path: the agent's socket; `$MESHLESS_DIR/client/meshless`, or `/meshlet/client/meshless` without that variable, if None.
        limit: bytes the reader buffers at most, as in `asyncio.open_connection`.

    Raises:
        InvalidServiceId: `service_id` cannot be one; nothing was sent.
        AgentUnavailable: no agent took the connection in time, or it went away before it replied.
        HandshakeTimeout: no reply in time.
        ConnectError: the agent refused; one subclass per reply code, `retryable` says whether to try again.
        ProtocolError: what answered is not an agent.
        OSError: this process has no descriptors or memory left for a socket.
    """
    from meshless_sdk import streams  # late on purpose: it imports asyncio

    return await streams.open_connection(
        service_id, connect_timeout=connect_timeout, handshake_timeout=handshake_timeout, path=path, limit=limit
    )


async def start_server(
    handler: Callable[[StreamConnection], Awaitable[object]],
    service: str,
    *,
    proxy_protocol: bool = False,
    header_timeout: float = 5.0,
    limit: int = 2**16,
    backlog: int = 1024,
    path: str | None = None,
) -> AsyncServer:
    r"""Serve a service with asyncio streams; it serves when this returns.

        async def greet(connection):
            connection.writer.write(f"hello {connection.peer}\n".encode())

        server = await meshless_sdk.start_server(greet, "http", proxy_protocol=True)
        cut = await server.serve_forever()          # until SIGTERM; or `await server.close(grace)`

    Args:
        handler: serves one connection, which is closed after it; what it raises is logged with the connection id.
        service: name of the service, as in the Meshlet.
        proxy_protocol: read a PROXY header first; has to agree with `proxyProtocol: v2` of the service in the Meshlet.
        header_timeout: seconds to wait for it.
        limit: bytes the reader buffers at most, as in `asyncio.start_server`.
        backlog: connections that may wait; the kernel caps it at `net.core.somaxconn`.
        path: where to listen, as for `listen`.

    Raises:
        InvalidServiceId: `service` is not a DNS label.
        ListenError: somebody listens there already, or the folder is missing or not writable.
    """
    from meshless_sdk import asyncio_serving  # late on purpose: it imports asyncio

    return await asyncio_serving.start_server(
        handler, service, proxy_protocol=proxy_protocol, header_timeout=header_timeout, limit=limit, backlog=backlog, path=path
    )


_LATE = {
    "AsyncServer": "asyncio_serving",
    "Connection": "serving",
    "Dialer": "dialler",
    "MeshSocket": "mesh_socket",
    "Peer": "proxy_protocol",
    "Retry": "retrying",
    "Server": "serving",
    "StreamConnection": "asyncio_serving",
    "listen": "listening",
    "serve": "serving",
}


def __getattr__(name: str) -> object:
    """Import what not everybody needs when it is first asked for (PEP 562)."""
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(f"meshless_sdk.{_LATE[name]}"), name)
    globals()[name] = value
    return value
