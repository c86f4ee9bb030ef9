from __future__ import annotations

import asyncio
import select
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import meshless_sdk
import pytest
from meshless_sdk.errors import CODES

SERVICE = "http.cart.shop"
REQUEST = b"\x01\x0ehttp.cart.shop"

pytestmark = pytest.mark.usefixtures("no_descriptor_leaks")


def read_request(connection: socket.socket) -> None:
    data = b""
    while len(data) < len(REQUEST):
        data += connection.recv(len(REQUEST) - len(data))
    assert data == REQUEST


def replying(*parts: bytes) -> Callable[[socket.socket], None]:
    def handler(connection: socket.socket) -> None:
        read_request(connection)
        for part in parts:
            connection.sendall(part)

    return handler


async def close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    await writer.wait_closed()


async def test_the_streams_are_the_connection_to_the_service(agent: Any) -> None:
    def serve(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(b"\x01\x00")
        assert connection.recv(100) == b"ping"
        connection.sendall(b"pong")
        assert connection.recv(100) == b""

    agent.plays(serve)
    reader, writer = await meshless_sdk.open_connection(SERVICE)
    writer.write(b"ping")
    assert await reader.readexactly(4) == b"pong"
    writer.write_eof()
    assert await reader.read() == b""
    await close(writer)


async def test_a_server_that_speaks_first_is_heard_from_its_first_byte(agent: Any) -> None:
    agent.plays(replying(b"\x01", b"\x00220 mail\r\n"))
    reader, writer = await meshless_sdk.open_connection(SERVICE)
    assert await reader.readline() == b"220 mail\r\n"
    await close(writer)


async def test_the_limit_reaches_the_reader(agent: Any) -> None:
    agent.plays(replying(b"\x01\x00" + b"x" * 100))
    reader, writer = await meshless_sdk.open_connection(SERVICE, limit=10)
    with pytest.raises(ValueError, match="limit"):
        await reader.readline()
    await close(writer)


@pytest.mark.parametrize("code", CODES)
async def test_each_refusal_is_an_exception_of_its_own(agent: Any, code: int) -> None:
    agent.plays(replying(bytes((1, code))))
    with pytest.raises(CODES[code]) as caught:
        await meshless_sdk.open_connection(SERVICE)
    assert type(caught.value) is CODES[code]


async def test_a_refusal_that_came_before_the_request_was_read_is_heard(agent: Any) -> None:
    agent.plays(lambda connection: connection.sendall(b"\x01\x0b"))
    with pytest.raises(meshless_sdk.Overloaded):
        await meshless_sdk.open_connection(SERVICE)


@pytest.mark.parametrize("said", [b"", b"\x01"])
async def test_an_agent_that_dies_before_it_replied_is_unavailable(agent: Any, said: bytes) -> None:
    agent.plays(replying(said))
    with pytest.raises(meshless_sdk.AgentUnavailable, match="without a reply"):
        await meshless_sdk.open_connection(SERVICE)


async def test_an_agent_that_resets_before_it_replied_is_unavailable(agent: Any) -> None:
    agent.plays(lambda connection: None)
    with pytest.raises(meshless_sdk.AgentUnavailable, match="without a reply"):
        await meshless_sdk.open_connection(SERVICE)


async def test_something_else_on_the_socket_is_a_protocol_error(agent: Any) -> None:
    agent.plays(replying(b"HTTP/1.1 400 Bad Request\r\n"))
    with pytest.raises(meshless_sdk.ProtocolError):
        await meshless_sdk.open_connection(SERVICE)


async def test_no_reply_in_time_is_a_handshake_timeout(agent: Any) -> None:
    def serve(connection: socket.socket) -> None:
        read_request(connection)
        assert connection.recv(1) == b""

    agent.plays(serve)
    with pytest.raises(meshless_sdk.HandshakeTimeout, match=r"within 0\.05 s"):
        await meshless_sdk.open_connection(SERVICE, handshake_timeout=0.05)


async def test_a_missing_socket_says_what_to_check(pod: Path, looks: Any) -> None:
    with pytest.raises(meshless_sdk.AgentUnavailable, match=r"there is no such socket; .* set MESHLESS_DIR$"):
        await meshless_sdk.open_connection(SERVICE, connect_timeout=0)
    assert looks.count == 1


@pytest.mark.parametrize("timeout", [20.0, None])
async def test_a_socket_that_appears_in_time_is_waited_for(appearing: Any, timeout: float | None) -> None:
    appearing(3, replying(b"\x01\x00220 mail\r\n"))
    reader, writer = await meshless_sdk.open_connection(SERVICE, connect_timeout=timeout)
    assert await reader.readline() == b"220 mail\r\n"
    await close(writer)


async def test_a_socket_that_is_listened_on_again_in_time_is_waited_for(pod: Path, appearing: Any) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(pod / "client" / "meshless"))
    appearing(3, replying(b"\x01\x00"))
    _, writer = await meshless_sdk.open_connection(SERVICE, connect_timeout=20)
    await close(writer)


async def test_an_agent_that_never_comes_is_waited_for_until_the_connect_timeout(pod: Path) -> None:
    with pytest.raises(meshless_sdk.AgentUnavailable, match=r"no such socket; .* \(waited 0\.05 s\)$") as caught:
        await meshless_sdk.open_connection(SERVICE, connect_timeout=0.05)
    assert isinstance(caught.value.__cause__, FileNotFoundError)


async def test_cancelling_while_waiting_for_an_agent_leaves_nothing_open(pod: Path, looks: Any) -> None:
    loop = asyncio.get_running_loop()
    task = asyncio.create_task(meshless_sdk.open_connection(SERVICE, connect_timeout=None))
    looks.before(3, lambda: loop.call_soon(task.cancel))  # when it pauses again
    with pytest.raises(asyncio.CancelledError):
        await task
    assert looks.count == 3


async def test_a_bad_service_id_is_found_before_anything_is_sent(pod: Path) -> None:
    with pytest.raises(meshless_sdk.InvalidServiceId):
        await meshless_sdk.open_connection("cart")


async def test_cancelling_during_the_handshake_leaves_nothing_open(agent: Any) -> None:
    loop, asked = asyncio.get_running_loop(), asyncio.Event()

    def serve(connection: socket.socket) -> None:
        read_request(connection)
        loop.call_soon_threadsafe(asked.set)
        assert connection.recv(1) == b""  # the client's end is closed

    agent.plays(serve)
    task = asyncio.create_task(meshless_sdk.open_connection(SERVICE))
    await asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_full_backlog_is_waited_for_until_the_connect_timeout(busy: socket.socket) -> None:
    with pytest.raises(meshless_sdk.AgentUnavailable, match="its backlog stayed full"):
        await meshless_sdk.open_connection(SERVICE, connect_timeout=0.02)


async def test_cancelling_while_the_backlog_is_full_leaves_nothing_open(busy: socket.socket) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(meshless_sdk.open_connection(SERVICE, connect_timeout=None), 0.02)


async def test_a_full_backlog_that_gets_room_in_time_is_no_error(busy: socket.socket) -> None:
    def serve() -> None:
        accepted: list[socket.socket] = []
        while True:
            readable, _, _ = select.select([busy, *accepted], [], [], 20)
            assert readable, "nobody sends a request"
            for one in readable:
                if one is busy:
                    accepted.append(busy.accept()[0])
                    continue
                read_request(one)
                one.sendall(b"\x01\x00")
                for each in accepted:
                    each.close()
                return

    task = asyncio.create_task(meshless_sdk.open_connection(SERVICE, connect_timeout=20))
    await asyncio.sleep(0)  # the first attempt is made, and finds the backlog full
    thread = threading.Thread(target=serve)
    thread.start()
    _, writer = await task
    await close(writer)
    await asyncio.to_thread(thread.join)
