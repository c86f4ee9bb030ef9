"""Whatever two applications do to a connection through agents, it is over once they are gone, and nothing was invented."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from meshless_core.types import ReplyCode
from tests.agent.handing_over import until
from tests.relay.applications import judge, storm

MakeMesh = Callable[..., Awaitable[Any]]
CASES = (*range(100), 783)  # 783: a client's event is fetched together with the tunnel's reset


@pytest.mark.parametrize("node", ["node-a", "node-b"], ids=["same-node", "cross-node"])
async def test_anything_in_any_order(make_mesh: MakeMesh, caplog: pytest.LogCaptureFixture, node: str) -> None:
    mesh = await make_mesh(cart_on=node)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(mesh.server_path()))
        listener.listen()
        listener.setblocking(False)
        for number in CASES:
            client = await mesh.open()
            assert await mesh.verdict(client) is ReplyCode.OK
            service, _ = await asyncio.get_running_loop().sock_accept(listener)
            service.setblocking(False)
            ends = await storm(number, client, service)
            await until(lambda: not any(len(one.runtime.connections) + len(one.runtime.slots) for one in mesh.agents.values()))
            judge(ends)
            assert "Traceback" not in caplog.text, f"case {number}"
