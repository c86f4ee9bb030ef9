"""Serve any ASGI application on a service's socket, with uvicorn.

    from meshless_sdk import asgi

    asgi.serve(app, "http")                        # until SIGTERM, then gracefully
    asgi.serve(app, "http", proxy_protocol=True)   # scope["state"]["meshless_peer"] says who connects

Needs the extra `meshless-sdk[asgi]`. Why uvicorn is said in ADR 0092.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import select
import signal
import socket
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from meshless_sdk.errors import ProxyHeaderError
from meshless_sdk.listening import Listener
from meshless_sdk.proxy_protocol import ProxyHeader
from meshless_sdk.serving import until_signal

__all__ = ["PEER", "Server", "serve"]

logger = logging.getLogger(__name__)

PEER = "meshless_peer"
"""Key in `scope["state"]` of the `Peer` who connects; there if `proxy_protocol` is on, None if the header spoke for nobody."""

_TURNS_OF_AN_ACCEPT = 5


class Server(uvicorn.Server):
    """A uvicorn server on a service's socket: `await server.serve()` in a loop of your own, stop it by `should_exit = True`.

    Attributes:
        cut: how many connections were cut by the last stop.
    """

    def __init__(
        self,
        app: Any,
        service: str,
        *,
        grace: float = 30.0,
        stop_signals: Iterable[signal.Signals] = (signal.SIGTERM, signal.SIGINT),
        proxy_protocol: bool = False,
        header_timeout: float = 5.0,
        backlog: int = 1024,
        path: str | None = None,
        **options: Any,
    ) -> None:
        """Listen; see `serve`."""
        if proxy_protocol:
            options["http"] = type("_HeaderFirst", (_HeaderFirst,), {"header_timeout": header_timeout})
        options.setdefault("log_config", None)  # logging is the application's to configure
        # whole seconds are what uvicorn documents, fractions are what it takes
        super().__init__(uvicorn.Config(app, timeout_graceful_shutdown=grace, **options))  # type: ignore[arg-type] # as said
        self._stop_signals = tuple(stop_signals)
        self._listener = Listener(service, backlog=backlog, path=path)
        self.cut = 0

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until a signal, or until `should_exit` is set. In another than the main thread there are no signals."""
        try:
            await super().serve([self._listener.socket])
        finally:
            self._listener.withdraw()
            self._listener.socket.close()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop; called by uvicorn. What had connected before is served, and counted if it is cut."""
        self._listener.withdraw()
        poll = select.poll()
        poll.register(self._listener.socket.fileno(), select.POLLIN)
        while poll.poll(0):  # noqa: ASYNC110 - the loop itself accepts what had connected before
            await asyncio.sleep(0)
        for _ in range(_TURNS_OF_AN_ACCEPT):
            await asyncio.sleep(0)
        await super().shutdown(sockets)
        self.cut = len(self.server_state.connections)
        for connection in list(self.server_state.connections):
            connection.transport.abort()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop on our signals; unlike uvicorn's own, they are not raised again afterwards."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        with until_signal(self._stop_signals, lambda: setattr(self, "should_exit", True)):
            yield


def serve(
    app: Any,
    service: str,
    *,
    grace: float = 30.0,
    stop_signals: Iterable[signal.Signals] = (signal.SIGTERM, signal.SIGINT),
    proxy_protocol: bool = False,
    header_timeout: float = 5.0,
    backlog: int = 1024,
    path: str | None = None,
    **options: Any,
) -> int:
    """Serve an ASGI application until SIGTERM or SIGINT, then stop gracefully.

    Args:
        app: the application, or `"module:name"` of it.
        service: name of the service, as in the Meshlet.
        grace: seconds that requests get after the signal.
        stop_signals: what ends it.
        proxy_protocol: read a PROXY header first; has to agree with `proxyProtocol: v2` of the service in the Meshlet.
        header_timeout: seconds to wait for it.
        backlog: connections that may wait; the kernel caps it at `net.core.somaxconn`.
        path: where to listen, as for `listen`.
        **options: of `uvicorn.Config`: `log_level`, `lifespan`, `limit_concurrency`, ...

    Returns:
        How many connections were cut because they took longer than `grace`.

    Raises:
        InvalidServiceId: `service` is not a DNS label.
        ListenError: somebody listens there already, or the folder is missing or not writable.
    """
    server = Server(
        app,
        service,
        grace=grace,
        stop_signals=stop_signals,
        proxy_protocol=proxy_protocol,
        header_timeout=header_timeout,
        backlog=backlog,
        path=path,
        **options,
    )
    asyncio.run(server.serve())
    return server.cut


class _HeaderFirst(H11Protocol):
    """HTTP/1.1 behind a PROXY header. Costs nothing once the header is read: the same bytes go the same way."""

    header_timeout = 5.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as its base class has it
        super().connection_made(transport)
        self._header: ProxyHeader | None = ProxyHeader()
        self._late = self.loop.call_later(self.header_timeout, self._refuse, "no complete PROXY header in time")

    def data_received(self, data: bytes) -> None:
        header = self._header
        if header is None:
            super().data_received(data)
            return
        try:
            while data and header.wanted:
                part, data = data[: header.wanted], data[header.wanted :]
                header.receive_data(part)
        except ProxyHeaderError as error:
            self._refuse(str(error))
            return
        if header.wanted:
            return
        self._header = None
        self._late.cancel()
        self.app_state = {**self.app_state, PEER: header.peer}
        if data:
            super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._late.cancel()
        super().connection_lost(exc)

    def _refuse(self, why: str) -> None:
        logger.warning("closed a connection: %s", why)
        self.transport.abort()
