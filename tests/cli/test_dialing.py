from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from meshless_core.cli.dialing import AgentUnreachableError, RefusedError, client_socket_path, dial
from meshless_core.cli.exit_codes import ExitCode
from meshless_core.types import ReplyCode, ServiceId

HTTP = ServiceId("http", "cart", "shop")
REQUEST = b"\x01\x0ehttp.cart.shop"
Play = Callable[[Callable[[socket.socket], Coroutine[Any, Any, None]]], "asyncio.Task[None]"]


@pytest.fixture
def path(pod: Path) -> str:
    return str(pod / "client" / "meshless")


@pytest.fixture
def listener(path: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as listening:
        listening.bind(path)
        listening.listen(0)
        yield listening


@pytest.fixture
def plays(listener: socket.socket) -> Play:
    """Take one connection and let a coroutine play the agent."""

    def play(role: Callable[[socket.socket], Coroutine[Any, Any, None]]) -> asyncio.Task[None]:
        async def serve() -> None:
            connection, _ = await asyncio.get_running_loop().sock_accept(listener)
            with connection:
                await role(connection)

        return asyncio.create_task(serve())

    return play


def replying(*parts: bytes) -> Callable[[socket.socket], Coroutine[Any, Any, None]]:
    async def role(connection: socket.socket) -> None:
        assert await asyncio.get_running_loop().sock_recv(connection, 100) == REQUEST
        for part in parts:
            connection.send(part)
            await asyncio.sleep(0)

    return role


async def test_the_socket_is_the_connection_and_nothing_behind_the_handshake_was_read(path: str, plays: Play) -> None:
    task = plays(replying(b"\x01", b"\x00220 mail\r\n"))
    with await dial(HTTP, path) as connection:
        assert await asyncio.get_running_loop().sock_recv(connection, 100) == b"220 mail\r\n"
    await task


@pytest.mark.parametrize("code", [code for code in ReplyCode if code])
async def test_a_refusal_names_the_code_and_says_what_to_do(path: str, plays: Play, code: ReplyCode) -> None:
    task = plays(replying(bytes((1, code))))
    with pytest.raises(RefusedError) as caught:
        await dial(HTTP, path)
    await task
    assert str(caught.value) == f"refused: {code.name} ({code.value}): {code.meaning}; the client may {code.advice}"
    assert caught.value.exit_code is ExitCode.NO


async def test_an_unknown_code_is_a_refusal_too(path: str, plays: Play) -> None:
    task = plays(replying(b"\x01\x4d"))
    with pytest.raises(RefusedError, match=r"refused: UNKNOWN \(77\): a code this version does not know"):
        await dial(HTTP, path)
    await task


async def test_a_refusal_that_came_before_the_request_was_read_is_heard(path: str, plays: Play) -> None:
    async def role(connection: socket.socket) -> None:
        connection.send(b"\x01\x0b")

    task = plays(role)
    with pytest.raises(RefusedError, match="OVERLOADED"):
        await dial(HTTP, path)
    await task


@pytest.mark.parametrize(
    ("said", "message"),
    [(b"", "the agent closed the connection without a reply"), (b"HTTP", "the reply has version 72 instead of 1")],
)
async def test_no_reply_means_the_agent_cannot_be_reached(path: str, plays: Play, said: bytes, message: str) -> None:
    task = plays(replying(said))
    with pytest.raises(AgentUnreachableError, match=f"no reply from {path}: {message}") as caught:
        await dial(HTTP, path)
    await task
    assert caught.value.exit_code is ExitCode.UNREACHABLE


async def test_a_silent_agent_is_given_up_after_the_timeout(path: str, plays: Play) -> None:
    async def role(connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        assert await loop.sock_recv(connection, 100) == REQUEST
        assert await loop.sock_recv(connection, 1) == b""  # the client gave up

    task = plays(role)
    with pytest.raises(AgentUnreachableError, match=r"did not reply within 0\.02 s; retry"):
        await dial(HTTP, path, handshake_timeout=0.02)
    await task


async def test_cancelling_leaves_nothing_open(path: str, plays: Play) -> None:
    asked = asyncio.Event()

    async def role(connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        assert await loop.sock_recv(connection, 100) == REQUEST
        asked.set()
        assert await loop.sock_recv(connection, 1) == b""

    task, dialling = plays(role), asyncio.create_task(dial(HTTP, path))
    await asked.wait()
    dialling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await dialling
    await task


async def test_why_the_agent_cannot_be_reached_is_told(pod: Path, path: str) -> None:
    with pytest.raises(AgentUnreachableError, match="there is no such socket; check --pod-dir, --socket or MESHLESS_DIR"):
        await dial(HTTP, path)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    with pytest.raises(AgentUnreachableError, match="nobody listens on it; check that the node's agent runs"):
        await dial(HTTP, path)
    os.unlink(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(path)
        with pytest.raises(AgentUnreachableError, match="it is not a stream socket; check the path"):
            await dial(HTTP, path)


async def test_a_full_backlog_is_waited_for(path: str, listener: socket.socket, plays: Play) -> None:
    with socket.socket(socket.AF_UNIX) as waiting:
        waiting.connect(path)
        with pytest.raises(AgentUnreachableError, match="its backlog stayed full"):
            await dial(HTTP, path, connect_timeout=0.02)
        dialling = asyncio.create_task(dial(HTTP, path, connect_timeout=10))
        await asyncio.sleep(0)  # the first attempt is made, and finds the backlog full
        listener.accept()[0].close()
        task = plays(replying(b"\x01\x00"))
        (await dialling).close()
        await task


def test_the_socket_option_beats_the_pods_folder() -> None:
    assert client_socket_path("/pod", None) == "/pod/client/meshless"
    assert client_socket_path("/pod", "/elsewhere") == "/elsewhere"
