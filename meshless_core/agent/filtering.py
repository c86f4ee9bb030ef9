"""Puts a handshake's filter between a client and the relay, for protocols that can change their target on a connection.

The relay gets one end of a socket pair instead of the client; here the client's bytes go through the filter into the other end,
and the service's bytes come back untouched. Always correct, one more copy: only such protocols pay for it. Memory is bounded:
neither side is read while the other does not take what it got. So is the time a filter takes in one go, however small the
pieces are that a client makes it look at: other connections get their turn in between.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from typing import Any, Final

from meshless_core.agent.runtime import AgentRuntime
from meshless_core.errors import RemoteProtocolError
from meshless_core.hookspecs import FilteringHandshake
from meshless_core.relay import close_with_reset

__all__ = ["filtered"]

logger = logging.getLogger(__name__)

_READ_BYTES: Final = 64 * 1024
_SLICE_BYTES: Final = 4 * 1024  # one-byte chunks of HTTP cost a filter some 10 us each
_HANGUP_ONLY: Final = 0  # EPOLLHUP and EPOLLERR are always reported


def filtered(
    runtime: AgentRuntime, client: socket.socket, handshake: FilteringHandshake, connection_id: bytes
) -> socket.socket:
    """The socket to relay instead of `client`, which is owned and closed from now on.

    Raises:
        OSError: no descriptor is left.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    task = runtime.spawn(_run(runtime, client, ours, handshake, connection_id), "filter")

    def close(_: asyncio.Task[None]) -> None:
        """Whatever ended it, also before its first step or in the middle of its last."""
        client.close()
        ours.close()

    task.add_done_callback(close)
    return theirs


async def _run(
    runtime: AgentRuntime,
    client: socket.socket,
    inner: socket.socket,
    handshake: FilteringHandshake,
    connection_id: bytes,
) -> None:
    gone = asyncio.Event()

    def on_hangup(_events: int) -> None:
        runtime.reactor.remove(inner.fileno())
        gone.set()

    runtime.reactor.add(inner.fileno(), _HANGUP_ONLY, on_hangup)
    budget = runtime.settings.relay_budget
    forward = asyncio.create_task(_forward(client, inner, handshake, budget), name="filter-forward")
    backward = asyncio.create_task(_copy(inner, client), name="filter-backward")
    both: asyncio.Future[Any] = asyncio.gather(forward, backward)
    relay_gone = asyncio.create_task(gone.wait(), name="filter-relay-gone")
    clean = False
    try:
        waited: set[asyncio.Future[Any]] = {both, relay_gone}
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        if both.done():
            both.result()
        else:
            await backward  # what the relay still had for the client; there is nobody to forward to any more
        clean = True
    except RemoteProtocolError as error:
        logger.warning("connection %s is cut: %s", connection_id.hex(), error)
    except OSError as error:
        logger.debug("connection %s: %s", connection_id.hex(), error.strerror)
    finally:
        for task in (forward, backward, relay_gone):
            task.cancel()
        await asyncio.gather(both, relay_gone, return_exceptions=True)
        runtime.reactor.remove(inner.fileno())
        for end in (client, inner):
            if clean:
                end.close()
            else:
                close_with_reset(end)


async def _forward(client: socket.socket, inner: socket.socket, handshake: FilteringHandshake, budget: float) -> None:
    loop = asyncio.get_running_loop()
    while True:
        data = await loop.sock_recv(client, _READ_BYTES)
        if allowed := await _allowed(data, handshake, budget):
            await loop.sock_sendall(inner, allowed)
        if not data:
            with contextlib.suppress(OSError):  # the other side is gone already
                inner.shutdown(socket.SHUT_WR)
            return


async def _allowed(data: bytes, handshake: FilteringHandshake, budget: float) -> bytes:
    """What the filter lets through; takes `budget` seconds at most before others get their turn."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    parts = [handshake.filter_data(data[:_SLICE_BYTES])]
    for at in range(_SLICE_BYTES, len(data), _SLICE_BYTES):
        if loop.time() - began > budget:
            await asyncio.sleep(0)
            began = loop.time()
        parts.append(handshake.filter_data(data[at : at + _SLICE_BYTES]))
    return b"".join(parts)


async def _copy(source: socket.socket, sink: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    while data := await loop.sock_recv(source, _READ_BYTES):
        await loop.sock_sendall(sink, data)
    with contextlib.suppress(OSError):  # the other side is gone already
        sink.shutdown(socket.SHUT_WR)
