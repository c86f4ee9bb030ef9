"""A connection that ended leaves nothing for the cycle collector: its memory comes back at once, however rarely that one runs.

The agent runs the collector seldom on purpose (`meshless_core.cli.agent`). What a cycle holds would pile up until then: a whole
TLS session per connection, once.
"""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

MakeMesh = Callable[..., Awaitable[Any]]
CONNECTIONS = 50


@contextmanager
def collecting(garbage: list[object]) -> Iterator[None]:
    """Keep what only the collector can free."""
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield
        gc.collect()
        garbage += gc.garbage
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


@pytest.mark.parametrize("ended_by", ["client", "service", "reset", "refusal"])
@pytest.mark.parametrize("node", ["node-a", "node-b"], ids=["same-node", "cross-node"])
async def test_a_connection_that_ended_leaves_no_cycle(make_mesh: MakeMesh, node: str, ended_by: str) -> None:
    mesh = await make_mesh(cart_on=node)
    loop = asyncio.get_running_loop()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(2)
        writer.write(b"hi")
        if ended_by == "client":
            await reader.read()
        writer.close()

    await mesh.serve(answer)
    tables = [agent.runtime.connections for agent in mesh.agents.values()]
    sessions = [pool for agent in mesh.agents.values() for pool in (agent.outbound, agent.inbound)]

    async def connections(count: int) -> None:
        clients = [
            await mesh.open(request=b"\x01\x0fother.cart.shop" if ended_by == "refusal" else REQUEST) for _ in range(count)
        ]
        for client in clients:
            await mesh.verdict(client)
            if ended_by != "refusal":
                await loop.sock_sendall(client, b"hi")
                if ended_by != "reset":  # closing over unread bytes is one
                    assert await loop.sock_recv(client, 2) == b"hi"
                if ended_by == "service":
                    assert await loop.sock_recv(client, 1) == b""
        if ended_by == "reset":
            async with asyncio.timeout(10):
                while any(row.relay.bytes_to_client != 2 for row in mesh.agents["node-a"].runtime.connections):
                    await asyncio.sleep(0.005)
        for client in clients:
            client.close()
        async with asyncio.timeout(10):
            while any(map(len, tables)) or any(pool.active for pool in sessions):
                await asyncio.sleep(0.005)
        for agent in mesh.agents.values():
            agent.runtime.access_log.flush()
        await asyncio.sleep(0)

    await connections(CONNECTIONS)  # what is made once is made now
    garbage: list[object] = []
    with collecting(garbage):
        await connections(CONNECTIONS)
    ours = Counter(kind for kind in map(type_name, garbage) if kind.startswith(("meshless", "ssl.", "_ssl.")))
    assert not ours


REQUEST = b"\x01\x0ehttp.cart.shop"


def type_name(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"
