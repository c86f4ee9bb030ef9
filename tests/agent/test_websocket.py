"""A WebSocket client as it comes, on the client's socket: the upgrade passes the filter, and the frames behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

websockets = pytest.importorskip("websockets", reason="websockets is not installed: uv sync --all-packages --all-extras")

MakeMesh = Callable[..., Awaitable[Any]]


@pytest.mark.parametrize("node", ["node-a", "node-b"], ids=["same node", "across nodes"])
async def test_messages_of_all_sizes_go_both_ways(make_mesh: MakeMesh, node: str) -> None:
    mesh = await make_mesh(cart_on=node)

    async def echo(connection: Any) -> None:
        async for message in connection:
            await connection.send(message)

    async with (
        websockets.unix_serve(echo, str(mesh.server_path()), max_size=None),
        asyncio.timeout(20),
    ):
        path = mesh.folder / "pods" / "shop" / "web-0" / "client" / "meshless"
        async with websockets.unix_connect(str(path), "ws://http.cart.shop/chat", max_size=None) as client:
            for message in ("", "hello", "GET / HTTP/1.1\r\nHost: http.other.shop\r\n\r\n", bytes(1_000_000)):
                await client.send(message)
                assert await client.recv() == message
            await (await client.ping())
