"""Serve a service with asyncio streams, and stop without losing a connection. The asyncio counterpart of `serving`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import select
import signal
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Final

from meshless_sdk.errors import ProxyHeaderError
from meshless_sdk.listening import Listener
from meshless_sdk.proxy_protocol import Peer, ProxyHeader
from meshless_sdk.serving import new_connection_id

__all__ = ["AsyncServer", "StreamConnection", "start_server"]

_TURNS_OF_AN_ACCEPT: Final = 5
"""Turns of the loop after which an accepted connection has reached us; asyncio needs three."""

_LEAVE_THE_FILE: Final[Mapping[str, Any]] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
"""Since Python 3.13 asyncio removes a socket's file itself, by the address it was bound to: our listeners move theirs away."""

logger = logging.getLogger(__name__)


class StreamConnection:
    """A client's connection to this server.

    Attributes:
        reader: what the client sends.
        writer: to the client; closed after the handler.
        id: for logs, 32 hexadecimal digits: the same as in the agents' logs if there was a PROXY header.
        peer: who connects, None without a PROXY header.
    """

    __slots__ = ("id", "peer", "reader", "writer")

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection_id: str, peer: Peer | None
    ) -> None:
        self.reader = reader
        self.writer = writer
        self.id = connection_id
        self.peer = peer


class AsyncServer:
    """A running server; made by `start_server`. An async context manager: leaving the block cuts what is left."""

    def __init__(
        self,
        handler: Callable[[StreamConnection], Awaitable[object]],
        listener: Listener,
        header_timeout: float | None,
        limit: int,
    ) -> None:
        self._handler = handler
        self._listener = listener
        self._header_timeout = header_timeout
        self._limit = limit
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._accepting: asyncio.Server | None = None

    @property
    def connections(self) -> int:
        """How many connections are open now."""
        return len(self._open)

    async def serve_forever(
        self, *, grace: float = 30.0, stop_signals: Iterable[signal.Signals] = (signal.SIGTERM, signal.SIGINT)
    ) -> int:
        """Serve until SIGTERM or SIGINT, then `close`. Only in the main thread's loop, which gets the signals.

        Returns:
            How many connections were cut.
        """
        loop, stop, signals = asyncio.get_running_loop(), asyncio.Event(), tuple(stop_signals)
        for number in signals:
            loop.add_signal_handler(number, stop.set)
        try:
            await stop.wait()
        finally:
            for number in signals:
                loop.remove_signal_handler(number)
        return await self.close(grace)

    async def close(self, grace: float = 30.0) -> int:
        """Stop: nobody new can connect, handlers get their time, the rest is cut.

        Args:
            grace: seconds to wait for the handlers.

        Returns:
            How many connections were cut.
        """
        accepting, self._accepting = self._accepting, None
        if accepting is not None:
            self._listener.withdraw()
            while self._somebody_waits():  # noqa: ASYNC110 - the loop itself accepts what had connected before
                await asyncio.sleep(0)
            for _ in range(_TURNS_OF_AN_ACCEPT):
                await asyncio.sleep(0)
            accepting.close()
        if self._open:
            await asyncio.wait(tuple(self._open), timeout=grace)
        left = dict(self._open)
        for task, writer in left.items():
            writer.transport.abort()
            task.cancel()
        if left:
            logger.warning("cut %d connections that were still open after %g s", len(left), grace)
            await asyncio.wait(tuple(left))
        return len(left)

    async def __aenter__(self) -> AsyncServer:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close(0)

    async def begin(self) -> None:
        """Begin to accept."""
        self._accepting = await asyncio.start_unix_server(
            self._on_connection, sock=self._listener.socket, limit=self._limit, **_LEAVE_THE_FILE
        )

    def _somebody_waits(self) -> bool:
        poll = select.poll()
        poll.register(self._listener.socket.fileno(), select.POLLIN)
        return bool(poll.poll(0))

    def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer), name="meshless-connection")
        self._open[task] = writer
        task.add_done_callback(lambda done: self._open.pop(done, None))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection_id = new_connection_id()
        try:
            peer = None if self._header_timeout is None else await _read_header(reader, self._header_timeout)
            connection_id = (peer.connection_id if peer else "") or connection_id
            await self._handler(StreamConnection(reader, writer, connection_id, peer))
            await writer.drain()
        except ProxyHeaderError as error:
            logger.warning("closed connection %s: %s", connection_id, error)
        except ConnectionError as error:
            logger.info("connection %s ended: %s", connection_id, error)
        except asyncio.CancelledError:
            logger.info("connection %s was cut", connection_id)
        except Exception:
            logger.exception("the handler failed on connection %s", connection_id)
        finally:
            writer.close()
            with contextlib.suppress(OSError):  # the client is gone already
                await writer.wait_closed()


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
    """Serve a service; see `meshless_sdk.start_server`."""
    listener = Listener(service, backlog=backlog, path=path)
    server = AsyncServer(handler, listener, header_timeout if proxy_protocol else None, limit)
    try:
        await server.begin()
    except BaseException:
        listener.withdraw()
        listener.socket.close()
        raise
    return server


async def _read_header(reader: asyncio.StreamReader, timeout: float) -> Peer | None:
    header = ProxyHeader()
    try:
        async with asyncio.timeout(timeout):
            while header.wanted:
                header.receive_data(await reader.read(header.wanted))
    except TimeoutError as error:
        raise ProxyHeaderError(f"no complete PROXY header within {timeout:g} s") from error
    return header.peer
