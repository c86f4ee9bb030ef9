from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from meshless_core.config import Seconds
from meshless_core.hookspecs import HandshakeRequest, ReplyDetails
from meshless_core.types import ReplyCode

MakeMesh = Callable[..., Awaitable[Any]]
SOCKS_REQUEST = b"\x05\x01\x00\x03\x0ehttp.cart.shop\x00\x50"
SOCKS_BOUND = b"\x00\x01\x00\x00\x00\x00\x00\x00"


async def read(client: socket.socket, count: int = 65536) -> bytes:
    """Exactly `count` bytes, or what there is until the end: a reset for a client whose last bytes nobody read."""
    data = b""
    async with asyncio.timeout(10):
        with contextlib.suppress(ConnectionResetError):
            while len(data) < count and (more := await asyncio.get_running_loop().sock_recv(client, count - len(data))):
                data += more
    return data


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.closing(writer):
        while data := await reader.read(1000):
            writer.write(data)
            await writer.drain()


async def test_a_handshake_may_answer_before_its_request_is_complete(make_mesh: MakeMesh) -> None:
    mesh = await make_mesh()
    await mesh.serve(echo)
    with contextlib.closing(await mesh.open(request=b"\x05\x01\x00")) as client:
        assert await read(client, 2) == b"\x05\x00"
        await asyncio.get_running_loop().sock_sendall(client, SOCKS_REQUEST + b"early")
        assert await read(client, 10) == b"\x05\x00" + SOCKS_BOUND
        assert await read(client, 5) == b"early"


async def test_a_client_that_does_not_take_the_answer_is_refused_with_timeout(make_mesh: MakeMesh) -> None:
    class Talkative:
        """Says more than any buffer holds."""

        refused_with: ReplyCode | None = None
        trailing_data = b""

        def receive_data(self, data: bytes) -> HandshakeRequest | None:
            return None

        def data_to_send(self) -> bytes:
            return bytes(16 * 1024 * 1024)

        def reply(self, code: ReplyCode, text: str = "", details: ReplyDetails | None = None) -> bytes:
            Talkative.refused_with = code
            return b""

    mesh = await make_mesh()
    agent = mesh.agents["node-a"]
    agent.runtime.handshakes[0xEE] = Talkative
    with contextlib.closing(await mesh.open(request=b"\xee")) as client:
        assert not any(await read(client, 32 * 1024 * 1024)), "what fitted arrives, then the end"
    assert Talkative.refused_with is ReplyCode.TIMEOUT
    assert agent.runtime.handshaking == 0


@pytest.mark.parametrize(
    ("begun", "told"),
    [
        (b"\x05", b"\x05\xff"),
        (b"\x05\x01\x00", b"\x05\x00\x05\x06" + SOCKS_BOUND),
        (b"GET / HTTP/1.1\r\nHost: http.ca", b"HTTP/1.1 408 Request Timeout\r\n"),
    ],
    ids=["SOCKS methods", "SOCKS request", "HTTP head"],
)
async def test_a_request_that_is_never_completed_is_refused_in_its_own_protocol(
    make_mesh: MakeMesh, begun: bytes, told: bytes
) -> None:
    mesh = await make_mesh(settings={"handshake_timeout": Seconds(0.05)})
    with contextlib.closing(await mesh.open(request=begun)) as client:
        assert (await read(client)).startswith(told)


async def test_a_head_that_never_ends_is_refused_and_leaves_other_clients_alone(make_mesh: MakeMesh) -> None:
    mesh = await make_mesh()
    await mesh.serve(echo)
    with contextlib.closing(await mesh.open(request=b"GET /")) as client:
        with contextlib.suppress(ConnectionError):  # refused while it is still talking
            await asyncio.get_running_loop().sock_sendall(client, b"x" * 100_000)
        _, other = await mesh.dial()
        other.close()
        assert (await read(client)).startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize("answer", ["a request", "bytes to say"])
async def test_a_handshake_of_wrong_types_refuses_its_client_and_keeps_nothing(make_mesh: MakeMesh, answer: str) -> None:
    class Wrong:
        """Returns text where the contract says otherwise."""

        trailing_data = b""

        def receive_data(self, data: bytes) -> Any:
            return "http.cart.shop" if answer == "a request" else None

        def data_to_send(self) -> Any:
            return "say more"

        def reply(self, code: ReplyCode, text: str = "", details: ReplyDetails | None = None) -> bytes:
            return f"{code.name} {text}".encode()

    mesh = await make_mesh()
    agent = mesh.agents["node-a"]
    agent.runtime.handshakes[0xEE] = Wrong
    agent.runtime.handshake_names[0xEE] = "wrong"
    with contextlib.closing(await mesh.open(request=b"\xee")) as client:
        assert await read(client) == b"INTERNAL_ERROR handshake plugin wrong failed; see the agent's log"
    assert agent.runtime.handshaking == 0
    assert agent.runtime.establishing == 0
