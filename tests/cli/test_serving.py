from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from meshless_core.cli.serving import serve_until_stopped

Serve = Callable[[socket.socket], Awaitable[None]]


class Served:
    def __init__(self, path: str) -> None:
        self.path = path
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self.listener.bind(path)
        self.listener.listen(16)

    async def start(self, serve: Serve, *, max_connections: int = 10) -> asyncio.Task[None]:
        ready = asyncio.Event()
        task = asyncio.create_task(serve_until_stopped(self.listener, serve, max_connections=max_connections, ready=ready.set))
        await ready.wait()
        return task

    def client(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.connect(self.path)
        connection.setblocking(False)
        return connection


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    it = Served(str(tmp_path / "s"))
    yield it
    it.listener.close()


async def hears(end: socket.socket) -> bytes:
    return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(end, 100), 10)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_cancels_what_is_served_and_returns(served: Served, number: int) -> None:
    cancelled = asyncio.Event()

    async def serve(connection: socket.socket) -> None:
        connection.send(b"hello")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    task = await served.start(serve)
    with served.client() as client:
        assert await hears(client) == b"hello"
        os.kill(os.getpid(), number)
        await asyncio.wait_for(task, 10)
        assert cancelled.is_set()
        assert await hears(client) == b""


async def test_no_more_than_the_limit_are_served_at_a_time(served: Served) -> None:
    go = asyncio.Event()
    running: list[int] = []

    async def serve(connection: socket.socket) -> None:
        running.append(1)
        assert len(running) <= 2
        connection.send(b"x")
        await go.wait()
        running.pop()

    task = await served.start(serve, max_connections=2)
    clients = [served.client() for _ in range(5)]
    assert [await hears(client) for client in clients[:2]] == [b"x", b"x"]
    with pytest.raises(BlockingIOError):
        clients[2].recv(1)
    go.set()
    assert [await hears(client) for client in clients[2:]] == [b"x", b"x", b"x"]
    for client in clients:
        client.close()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_bug_in_one_connection_is_logged_and_the_others_go_on(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    async def serve(connection: socket.socket) -> None:
        if await asyncio.get_running_loop().sock_recv(connection, 1) == b"!":
            raise ZeroDivisionError
        connection.send(b"fine")

    task = await served.start(serve)
    with served.client() as bad, served.client() as good:
        bad.send(b"!")
        assert await hears(bad) == b""
        good.send(b"?")
        assert await hears(good) == b"fine"
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR] == [
        "serving a connection failed: a bug in meshless, please report it"
    ]


async def test_a_shortage_of_descriptors_is_waited_out(
    served: Served, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def serve(connection: socket.socket) -> None:
        connection.send(b"at last")

    loop = asyncio.get_running_loop()
    real, failures = loop.sock_accept, [errno.EMFILE, errno.ECONNABORTED, errno.ENFILE]

    async def scarce(listener: socket.socket) -> tuple[socket.socket, object]:
        if failures:
            number = failures.pop()
            raise OSError(number, os.strerror(number))
        return await real(listener)

    monkeypatch.setattr(loop, "sock_accept", scarce)
    monkeypatch.setattr("meshless_core.cli.serving._PAUSE_WITHOUT_DESCRIPTORS", 0)
    task = await served.start(serve)
    with served.client() as client:
        assert await hears(client) == b"at last"
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["cannot accept, trying again"] * 2
