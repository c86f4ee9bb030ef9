"""The asyncio half of `Dialer`. A module of its own, because importing asyncio costs more than all the rest."""

from __future__ import annotations

import asyncio
import socket
import time

from meshless_sdk.dialler import Call, take_descriptor
from meshless_sdk.errors import MeshlessError
from meshless_sdk.mesh_socket import MeshSocket
from meshless_sdk.streams import connect_to_agent, receive, send

__all__ = ["open_connection", "open_socket"]


async def open_connection(call: Call, limit: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Drive a call; see `Dialer.open_connection`."""
    connection = await open_socket(call)
    try:
        return await asyncio.open_connection(sock=connection, limit=limit)
    except BaseException:  # also cancellation: nobody else knows the socket
        connection.close()
        raise


async def open_socket(call: Call) -> MeshSocket:
    """Drive a call; see `Dialer.open_socket`."""
    while True:
        try:
            return await _connect_once(call)
        except MeshlessError as error:
            pause = call.pause_after(error, time.monotonic())
            if pause is None:
                raise
        await asyncio.sleep(pause)


async def _connect_once(call: Call) -> MeshSocket:
    connection = MeshSocket()
    descriptor: int | None = None
    try:
        connection.setblocking(False)
        await connect_to_agent(connection, call.path, call.connect_timeout(time.monotonic()))
        now = time.monotonic()
        timeout = call.handshake_timeout(now)
        try:
            async with asyncio.timeout(timeout):
                await send(connection, call.begin(timeout, now))
                while call.reply.wanted:
                    call.reply.receive_data(await receive(connection, call.reply.wanted))
                if call.expects_descriptor:
                    await _readable(connection)
                    descriptor = take_descriptor(connection)  # from here on nothing waits, so nothing can cancel
        except TimeoutError as error:
            if isinstance(error, MeshlessError):
                raise  # the agent's own timeout is a TimeoutError too
            raise call.late(timeout) from error
        service = call.established(connection, descriptor)
        service.setblocking(False)
    except BaseException:  # also cancellation: nobody else knows the socket
        connection.close()
        raise
    return service


async def _readable(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(connection.fileno(), ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(connection.fileno())
