from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from typing import Any

from meshless_core.agent.filtering import _SLICE_BYTES, _allowed, filtered

GET = b"GET /%d HTTP/1.1\r\nHost: http.cart.shop\r\n\r\n"


class Shouting:
    """A filter that can be told from none."""

    filtering = True

    def filter_data(self, data: bytes) -> bytes:
        return data.upper()


async def test_others_get_their_turn_while_a_filter_works() -> None:
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    others = asyncio.create_task(take_turns())
    data = b"abc" * _SLICE_BYTES
    assert await _allowed(data, Shouting(), budget=-1) == data.upper()
    assert turns >= len(data) // _SLICE_BYTES - 1
    turns = 0
    assert await _allowed(data, Shouting(), budget=60) == data.upper()
    assert turns == 0, "within the budget nobody waits"
    others.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await others


async def test_an_end_of_file_is_shown_to_the_filter() -> None:
    seen: list[bytes] = []

    class Noting(Shouting):
        def filter_data(self, data: bytes) -> bytes:
            seen.append(data)
            return data or b"last words"

    assert await _allowed(b"", Noting(), budget=1) == b"last words"
    assert seen == [b""]


async def test_a_filter_stopped_before_its_first_step_leaves_no_socket_open(make_mesh: Callable[..., Awaitable[Any]]) -> None:
    mesh = await make_mesh()
    runtime = mesh.agents["node-a"].runtime
    client, ours = socket.socketpair()
    client.setblocking(False)
    inner = filtered(runtime, client, Shouting(), bytes(16))
    with contextlib.closing(inner), contextlib.closing(ours):
        await runtime.cancel_tasks()
        await asyncio.sleep(0)
        assert client.fileno() == -1
        assert inner.recv(1) == b""


async def test_a_request_for_another_service_cuts_the_connection_and_reaches_nobody(
    make_mesh: Callable[..., Awaitable[Any]],
) -> None:
    mesh = await make_mesh()
    got = bytearray()
    arrived, ended = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError), contextlib.closing(writer):
            while data := await reader.read(1000):
                got.extend(data)
                arrived.set()
        ended.set()

    await mesh.serve(serve)
    client = await mesh.open(request=GET % 1)
    with contextlib.closing(client):
        async with asyncio.timeout(10):
            await arrived.wait()
            await asyncio.get_running_loop().sock_sendall(client, (GET % 2).replace(b"cart", b"other"))
            with contextlib.suppress(ConnectionResetError):
                assert await asyncio.get_running_loop().sock_recv(client, 1) == b""
            await ended.wait()
    assert got == GET % 1
