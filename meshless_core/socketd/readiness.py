"""Wait until a non-blocking socket is readable or writable, in asyncio.

asyncio has `sock_recv` and `sock_sendall`, but nothing for calls it does not wrap, such as `recvmsg` with descriptors.
"""

from __future__ import annotations

import asyncio
import socket

__all__ = ["readable", "writable"]


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def readable(connection: socket.socket) -> None:
    """Return when `connection` has something to read, or an end or error to report."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()
    loop.add_reader(connection, _wake, future)
    try:
        await future
    finally:
        loop.remove_reader(connection)


async def writable(connection: socket.socket) -> None:
    """Return when `connection` takes bytes, or has an error to report."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()
    loop.add_writer(connection, _wake, future)
    try:
        await future
    finally:
        loop.remove_writer(connection)
