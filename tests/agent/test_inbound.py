"""What an agent bounds of agents that have proven an identity."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

from meshless_core.hookspecs import SecureStream
from meshless_core.types import Identity

MakeMesh = Callable[..., Awaitable[Any]]


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(await reader.read())
    writer.close()


async def test_of_idle_sessions_the_newest_are_kept_and_the_next_connection_is_made(make_mesh: MakeMesh) -> None:
    mesh = await make_mesh(cart_on="node-b", settings={"max_tunnels_idle": 2})
    await mesh.serve(_echo)
    client, server = mesh.agents["node-a"].outbound, mesh.agents["node-b"].inbound

    live = [await mesh.dial() for _ in range(5)]
    assert (server.active, server.idle) == (5, 0), "sessions in use are no idle ones"
    for reader, writer in live:
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()
        assert server.idle <= 2
    async with asyncio.timeout(20):
        while (server.active, server.idle, client.idle) != (0, 2, 2):
            await asyncio.sleep(0.005)

    for _ in range(3):
        reader, writer = await mesh.dial()
        writer.write(b"still")
        writer.write_eof()
        assert await reader.read() == b"still"
        writer.close()


class _LeavesSlowly:
    """A transport that authenticates nobody, and whose cut connections take their time to close."""

    def __init__(self) -> None:
        self.may_leave = asyncio.Event()
        self.accepted: list[socket.socket] = []

    async def connect(self, address: str, *, source: Identity, target: Identity) -> SecureStream:
        raise NotImplementedError

    async def accept(self, connection: socket.socket) -> SecureStream:
        self.accepted.append(connection)
        try:
            await asyncio.Event().wait()
        finally:
            await self.may_leave.wait()
            connection.close()
        raise NotImplementedError


async def test_while_the_crowded_out_are_leaving_nobody_is_accepted_and_the_loop_rests(make_mesh: MakeMesh) -> None:
    mesh = await make_mesh(cart_on="node-b", settings={"max_tunnels_unauthenticated": 4})
    inbound = mesh.agents["node-b"].inbound
    transport = inbound._transport = _LeavesSlowly()
    reactor = mesh.agents["node-b"].runtime.reactor
    watched = 0
    add = reactor.add

    def counting(*arguments: Any) -> None:
        nonlocal watched
        watched += 1
        add(*arguments)

    host, port = mesh.addresses["node-b"].rsplit(":", 1)
    async with asyncio.timeout(20):
        writers = []
        for number in range(1, 6):
            writers.append((await asyncio.open_connection(host, int(port)))[1])
            while len(transport.accepted) < number:
                await asyncio.sleep(0.005)
        reactor.add = counting
        writers.append((await asyncio.open_connection(host, int(port)))[1])
        while inbound._accepting:
            await asyncio.sleep(0.005)
        for _ in range(50):
            await asyncio.sleep(0)
        assert (watched, len(transport.accepted)) == (0, 5)
        transport.may_leave.set()
        while len(transport.accepted) < 6:
            await asyncio.sleep(0.005)
    assert watched == 1
    for writer in writers:
        writer.close()
