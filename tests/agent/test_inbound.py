"""What an agent bounds of agents that have proven an identity."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

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
