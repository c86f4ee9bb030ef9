"""Serve a service with a thread per connection, and stop without losing any.

Stopping is: nobody new can connect, what waits in the backlog is still served, handlers get their time, the rest is cut and
counted. Afterwards the same service can be served again, also by the same process.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from types import FrameType, TracebackType
from typing import Final

from meshless_sdk.errors import InvalidArgument, ProxyHeaderError
from meshless_sdk.listening import Listener
from meshless_sdk.proxy_protocol import Peer, ProxyHeader

__all__ = ["Connection", "Server", "new_connection_id", "serve", "until_signal"]

logger = logging.getLogger(__name__)

_STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_SCARCE: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_SCARCITY_PAUSE: Final = 0.1
_LAST_MOMENTS: Final = 1.0
"""Seconds that handlers get after their connection was cut, to notice."""


class Connection:
    """A client's connection to this server.

    Attributes:
        socket: blocking, closed after the handler.
        id: for logs, 32 hexadecimal digits: the same as in the agents' logs if there was a PROXY header.
        peer: who connects, None without a PROXY header.
    """

    __slots__ = ("id", "peer", "socket")

    def __init__(self, connection: socket.socket, connection_id: str, peer: Peer | None) -> None:
        self.socket = connection
        self.id = connection_id
        self.peer = peer


def new_connection_id() -> str:
    """An id for a connection that brought none: 16 random bytes, hexadecimal."""
    return os.urandom(16).hex()


class Server:
    """A threaded server. Begin with `serve_forever`, end with `stop` from another thread or a signal handler.

    A context manager: leaving the block cuts what is left.
    """

    def __init__(
        self,
        handler: Callable[[Connection], object],
        service: str,
        *,
        proxy_protocol: bool = False,
        header_timeout: float = 5.0,
        max_connections: int = 512,
        backlog: int = 1024,
        path: str | None = None,
    ) -> None:
        """Listen. From here on clients can connect; they are served by `serve_forever`.

        Args:
            handler: called in a thread of its own for each connection, which is closed when it returns. What it raises is
                logged with the connection id, and ends this connection only.
            service: name of the service, as in the Meshlet.
            proxy_protocol: read a PROXY header first; has to agree with `proxyProtocol: v2` of the service in the Meshlet.
            header_timeout: seconds to wait for it.
            max_connections: connections at a time; more wait in the backlog. A thread each.
            backlog: connections that may wait; the kernel caps it at `net.core.somaxconn`.
            path: where to listen, as for `listen`.

        Raises:
            InvalidServiceId: `service` is not a DNS label.
            InvalidArgument: fewer than one connection at a time.
            ListenError: somebody listens there already, or the folder is missing or not writable.
        """
        if max_connections < 1:
            raise InvalidArgument(f"max_connections has to be 1 or more, not {max_connections}")
        self._handler = handler
        self._proxy_protocol = proxy_protocol
        self._header_timeout = header_timeout
        self._max_connections = max_connections
        self._changed = threading.Condition()
        self._open: set[socket.socket] = set()
        self._stopping = False
        self._serving = threading.RLock()
        self._listener = Listener(service, backlog=backlog, path=path)
        self._listener.socket.setblocking(False)
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    @property
    def connections(self) -> int:
        """How many connections are open now."""
        return len(self._open)

    def request_stop(self) -> None:
        """Make `serve_forever` return. Safe in a signal handler, from any thread, and more than once."""
        self._stopping = True
        self._ring()

    def serve_forever(self) -> None:
        """Serve until `request_stop`; then nobody new can connect, and what had connected before is being served."""
        with self._serving:
            while not self._stopping:
                self._serve_next()
            self._wind_down()

    def stop(self, grace: float = 30.0) -> int:
        """Wait for the handlers, cut those that take longer. Call after `serve_forever` has returned, or instead of it.

        Args:
            grace: seconds to wait.

        Returns:
            How many connections were cut.
        """
        self.request_stop()
        with self._serving:  # so not before `serve_forever` in another thread has returned
            self._wind_down()
        with self._changed:
            self._changed.wait_for(lambda: not self._open, grace)
            left = list(self._open)
            for connection in left:
                with contextlib.suppress(OSError):  # gone in this moment
                    connection.shutdown(socket.SHUT_RDWR)
            self._changed.wait_for(lambda: not self._open, _LAST_MOMENTS)
            if self._bell >= 0:
                os.close(self._bell)
                self._bell = -1
        if left:
            logger.warning("cut %d connections that were still open after %g s", len(left), grace)
        return len(left)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop(0)

    def _ring(self) -> None:
        with self._changed:  # its lock may be taken again by the same thread, so also in a signal handler
            if self._bell >= 0:
                os.eventfd_write(self._bell, 1)

    def _serve_next(self) -> None:
        listener = self._listener.socket.fileno()
        poll = select.poll()  # not select.select, which ends at descriptor 1023
        poll.register(self._bell, select.POLLIN)
        if len(self._open) < self._max_connections:
            poll.register(listener, select.POLLIN)
        ready = {descriptor for descriptor, _ in poll.poll()}
        if self._bell in ready:
            os.eventfd_read(self._bell)
        if listener in ready:
            self._accept_one()

    def _wind_down(self) -> None:
        if self._listener.socket.fileno() >= 0:
            self._listener.withdraw()
            while self._accept_one():
                pass
            self._listener.socket.close()

    def _accept_one(self) -> bool:
        """Whether there was a connection; it is being served."""
        try:
            connection, _ = self._listener.socket.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return False
        except OSError as error:
            if error.errno not in _SCARCE:
                raise
            logger.warning("cannot accept a connection now: %s", error.strerror)
            time.sleep(_SCARCITY_PAUSE)
            return False
        connection.settimeout(None)
        with self._changed:
            self._open.add(connection)
        try:
            threading.Thread(target=self._serve, args=(connection,), name="meshless-connection", daemon=True).start()
        except RuntimeError as error:  # the system gives us no thread: one connection less, not a server less
            logger.error("closed a connection: %s; lower max_connections, or raise the limit of threads", error)
            with self._changed:
                self._open.discard(connection)
                connection.close()
            time.sleep(_SCARCITY_PAUSE)
        return True

    def _serve(self, connection: socket.socket) -> None:
        connection_id = new_connection_id()
        try:
            peer = _read_header(connection, self._header_timeout) if self._proxy_protocol else None
            connection_id = (peer.connection_id if peer else "") or connection_id
            self._handler(Connection(connection, connection_id, peer))
        except ProxyHeaderError as error:
            logger.warning("closed connection %s: %s", connection_id, error)
        except ConnectionError as error:
            logger.info("connection %s ended: %s", connection_id, error)
        except Exception:
            logger.exception("the handler failed on connection %s", connection_id)
        finally:
            with self._changed:
                self._open.discard(connection)
                connection.close()
                self._changed.notify_all()
            self._ring()


def serve(
    handler: Callable[[Connection], object],
    service: str,
    *,
    grace: float = 30.0,
    stop_signals: Iterable[signal.Signals] = _STOP_SIGNALS,
    proxy_protocol: bool = False,
    header_timeout: float = 5.0,
    max_connections: int = 512,
    backlog: int = 1024,
    path: str | None = None,
) -> int:
    """Serve a service with a thread per connection until SIGTERM or SIGINT, then stop gracefully.

    Has to be called in the main thread, which gets the signals; elsewhere use `Server`. The handlers of the signals are what
    they were before when it returns.

    Args:
        handler: called in a thread of its own for each connection, which is closed when it returns. What it raises is logged
            with the connection id, and ends this connection only.
        service: name of the service, as in the Meshlet.
        grace: seconds that handlers get after the signal.
        stop_signals: what ends it.
        proxy_protocol: read a PROXY header first; has to agree with `proxyProtocol: v2` of the service in the Meshlet.
        header_timeout: seconds to wait for it.
        max_connections: connections at a time; more wait in the backlog.
        backlog: connections that may wait; the kernel caps it at `net.core.somaxconn`.
        path: where to listen, as for `listen`.

    Returns:
        How many connections were cut because they took longer than `grace`.

    Raises:
        InvalidServiceId: `service` is not a DNS label.
        ListenError: somebody listens there already, or the folder is missing or not writable.
    """
    with Server(
        handler,
        service,
        proxy_protocol=proxy_protocol,
        header_timeout=header_timeout,
        max_connections=max_connections,
        backlog=backlog,
        path=path,
    ) as server:
        with until_signal(stop_signals, server.request_stop):
            server.serve_forever()
        return server.stop(grace)


@contextlib.contextmanager
def until_signal(signals: Iterable[signal.Signals], stop: Callable[[], object]) -> Iterator[None]:
    """Call `stop` for each of these signals inside the block. Only in the main thread, as Python wants it."""

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop()

    before = {number: signal.signal(number, on_signal) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _read_header(connection: socket.socket, timeout: float) -> Peer | None:
    deadline = time.monotonic() + timeout
    header = ProxyHeader()
    while header.wanted:
        connection.settimeout(max(1e-6, deadline - time.monotonic()))
        try:
            header.receive_data(connection.recv(header.wanted))
        except TimeoutError as error:
            raise ProxyHeaderError(f"no complete PROXY header within {timeout:g} s") from error
    connection.settimeout(None)
    return header.peer
