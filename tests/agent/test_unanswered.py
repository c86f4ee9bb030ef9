"""An agent that stops leaves no client without a reply, and takes no new ones."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from meshless_core.agent.unanswered import Unanswered
from meshless_core.types import ReplyCode

MakeMesh = Callable[..., Awaitable[Any]]


class Client:
    def __init__(self, everybody: Unanswered) -> None:
        self.turned_away = 0
        self._everybody = everybody
        everybody.add(self)

    def turn_away(self) -> None:
        self.turned_away += 1
        self._everybody.remove(self)


async def test_everybody_is_turned_away_once_and_then_it_is_empty() -> None:
    everybody = Unanswered()
    clients = [Client(everybody) for _ in range(3)]
    everybody.remove(clients[0])
    assert len(everybody) == 2
    everybody.turn_away()
    assert [client.turned_away for client in clients] == [0, 1, 1]
    await everybody.wait_empty()


@pytest.mark.parametrize("drained", [True, False], ids=["drained", "stopped at once"])
@pytest.mark.parametrize("request_bytes", [b"\x01\x0eht", b"\x01\x0ehttp.cart.shop"], ids=["incomplete", "being connected"])
async def test_a_client_that_waits_is_told_that_the_agent_drains(
    make_mesh: MakeMesh, drained: bool, request_bytes: bytes
) -> None:
    mesh = await make_mesh()
    with contextlib.ExitStack() as stack:
        path = str(mesh.server_path())
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(path)
        listener.listen(0)
        with contextlib.suppress(BlockingIOError):  # its backlog is full: the connection cannot be made
            while True:
                filler = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
                filler.connect(path)
        client = stack.enter_context(await mesh.open(request=request_bytes))
        agent = mesh.agents.pop("node-a")
        async with asyncio.timeout(20):
            while not (agent.runtime.handshaking or agent.runtime.establishing):
                await asyncio.sleep(0.005)
        if drained:
            await agent.drain()
        await agent.stop()
        assert agent.runtime.establishing == agent.runtime.handshaking == 0
        assert await mesh.verdict(client) is ReplyCode.DRAINING


async def test_a_drain_waits_for_a_connection_that_is_being_made(make_mesh: MakeMesh) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read())
        writer.close()

    from meshless_core.config import Seconds

    mesh = await make_mesh(cart_on="node-b", settings={"drain_timeout": Seconds(5.0)})
    await mesh.serve(echo)
    client = await mesh.open()
    agent = mesh.agents["node-a"]
    async with asyncio.timeout(20):
        while not agent.runtime.connecting:
            await asyncio.sleep(0)
    draining = asyncio.create_task(agent.drain())
    assert await mesh.verdict(client) is ReplyCode.OK
    client.close()
    await draining


async def test_a_pod_that_appears_while_the_agent_drains_waits_for_the_next_agent(
    make_mesh: MakeMesh, shop: Callable[[str], str]
) -> None:
    mesh = await make_mesh()
    agent = mesh.agents["node-a"]
    await agent.drain()
    await mesh.apply(shop("node-a") + "---\n" + shop("node-a").split("---")[2].replace("web-0", "web-1"))
    client = await mesh.open("web-1")
    mesh.agents.pop("node-a")
    await agent.stop()
    await mesh.start_agent("node-a")
    assert await mesh.verdict(client) is not ReplyCode.DRAINING
    client.close()
