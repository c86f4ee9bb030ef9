"""Dial a service with asyncio streams. A module of its own, because importing asyncio costs more than all the rest."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time

from meshless_sdk.dialling import unavailable
from meshless_sdk.errors import AgentUnavailable, HandshakeTimeout
from meshless_sdk.paths import address_of, client_socket_path
from meshless_sdk.patience import Patience
from meshless_sdk.wire import Reply, encode_request

__all__ = ["connect_to_agent", "open_connection", "receive", "send"]

_FIRST_PAUSE = 0.001
_LONGEST_PAUSE = 0.05


async def open_connection(
    service_id: str,
    *,
    connect_timeout: float | None = 5.0,
    handshake_timeout: float | None = 15.0,
    path: str | None = None,
    limit: int = 2**16,
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Dial a service; see `meshless_sdk.open_connection`."""
    request = encode_request(service_id)
    where = client_socket_path() if path is None else path
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        await _wait_for_agent(connection, where, connect_timeout)
        try:
            async with asyncio.timeout(handshake_timeout) as timer:
                await _shake_hands(connection, service_id, request)
        except TimeoutError as error:
            if not timer.expired():
                raise  # the agent's own timeout is a TimeoutError too
            raise HandshakeTimeout(f"the agent did not reply for {service_id} within {handshake_timeout} s; retry") from error
        return await asyncio.open_connection(sock=connection, limit=limit)
    except BaseException:  # also cancellation: nobody else knows the socket
        connection.close()
        raise


async def _wait_for_agent(connection: socket.socket, path: str, timeout: float | None) -> None:
    patience = Patience(time.monotonic(), timeout)
    while True:
        try:
            return await connect_to_agent(connection, path, patience.left(time.monotonic()))
        except AgentUnavailable as error:
            pause = patience.pause_after(error, time.monotonic())
        await asyncio.sleep(pause)


async def connect_to_agent(connection: socket.socket, path: str, timeout: float | None) -> None:
    """Connect a non-blocking socket, trying again while the backlog is full, `timeout` seconds at most.

    Not `loop.sock_connect`: a Unix socket that has to wait for the backlog gives EAGAIN and never becomes writable, and asyncio
    would take it for connected.

    Raises:
        AgentUnavailable: no agent took the connection; at once if none listens. The socket can be used again.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    pause = _FIRST_PAUSE
    while True:
        try:
            with address_of(path) as address:
                connection.connect(address)
            return
        except BlockingIOError as error:
            left = pause if deadline is None else deadline - time.monotonic()
            if left <= 0:
                raise unavailable(path, error) from error
        except OSError as error:
            raise unavailable(path, error) from error
        await asyncio.sleep(min(pause, left))
        pause = min(pause * 2, _LONGEST_PAUSE)


async def _shake_hands(connection: socket.socket, service_id: str, request: bytes) -> None:
    reply = Reply(service_id)
    await send(connection, request)
    while reply.wanted:
        reply.receive_data(await receive(connection, reply.wanted))


async def send(connection: socket.socket, request: bytes) -> None:
    """Send a request; an agent that does not take it is no error yet."""
    # The agent may refuse before it has read the request: what it said is still there to read.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        await asyncio.get_running_loop().sock_sendall(connection, request)


async def receive(connection: socket.socket, size: int) -> bytes:
    """At most `size` bytes of a reply, b"" for the end of the connection, however it ended."""
    try:
        return await asyncio.get_running_loop().sock_recv(connection, size)
    except ConnectionResetError:
        return b""  # the agent went away with our request unread: to us the same as end-of-file
