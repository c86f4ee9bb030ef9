"""A filter between a client and the relay: half-closes, cuts, slow readers, and that nothing is left of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from meshless_core.agent import filtering
from meshless_core.agent.filtering import _SLICE_BYTES, Filter, _allowed
from meshless_core.errors import RemoteProtocolError
from meshless_core.hookspecs import HandshakeRequest, ReplyDetails
from meshless_core.types import ReplyCode, ServiceId
from tests.agent.handing_over import echo, receive, until
from tests.relay.applications import judge, storm

MakeMesh = Callable[..., Awaitable[Any]]
BOTH = pytest.mark.parametrize("node", ["node-a", "node-b"], ids=["same-node", "cross-node"])
SHOUT = 0xFA
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
    inner = Filter(runtime, client, Shouting(), bytes(16), lambda _cut, _reason: None).end
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


# --- with a protocol made for it ---------------------------------------------------------------------------------------


class ShoutingHandshake:
    """One byte asks for the cart; what follows is shouted. An exclamation mark is refused, a question mark a bug."""

    filtering = True

    def __init__(self) -> None:
        self._trailing = b""

    @property
    def trailing_data(self) -> bytes:
        return self._trailing

    def receive_data(self, data: bytes) -> HandshakeRequest:
        self._trailing = self.filter_data(data[1:])
        return HandshakeRequest(ServiceId("http", "cart", "shop"))

    def reply(self, code: ReplyCode, text: str = "", details: ReplyDetails | None = None) -> bytes:
        return bytes((1, code))

    def filter_data(self, data: bytes) -> bytes:
        if b"!" in data:
            raise RemoteProtocolError("no exclamations, please", code=ReplyCode.MALFORMED_REQUEST)
        if b"?" in data:
            raise ValueError("what")
        return data.upper()


async def shouting(make_mesh: MakeMesh, handler: Any = echo, **options: Any) -> Any:
    mesh = await make_mesh(**options)
    for agent in mesh.agents.values():
        agent.runtime.handshakes[SHOUT] = ShoutingHandshake
    await mesh.serve(handler)
    return mesh


async def dial(mesh: Any, early: bytes = b"") -> socket.socket:
    client: socket.socket = await mesh.open(request=bytes((SHOUT,)) + early)
    assert await mesh.verdict(client) is ReplyCode.OK
    return client


def all_over(mesh: Any) -> bool:
    filters = [task for task in asyncio.all_tasks() if task.get_name().startswith("filter")]
    return not filters and not any(len(agent.runtime.connections) + len(agent.runtime.slots) for agent in mesh.agents.values())


async def say(client: socket.socket, data: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(client, data)


@BOTH
async def test_bytes_pass_the_filter_one_way_and_come_back_untouched(make_mesh: MakeMesh, node: str) -> None:
    mesh = await shouting(make_mesh, cart_on=node)
    client = await dial(mesh, early=b"early ")
    await say(client, b"bird " * 100_000)
    assert await receive(client, 500_006) == b"EARLY " + b"BIRD " * 100_000
    client.close()
    await until(lambda: all_over(mesh))


@BOTH
async def test_the_client_may_end_first(make_mesh: MakeMesh, node: str) -> None:
    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = await reader.read()
        writer.write(b"%d" % len(data))
        writer.close()

    mesh = await shouting(make_mesh, count, cart_on=node)
    client = await dial(mesh)
    await say(client, b"x" * 300_000)
    client.shutdown(socket.SHUT_WR)
    assert await receive(client, 100) == b"300000"
    client.close()
    await until(lambda: all_over(mesh))


@BOTH
async def test_the_service_may_end_first(make_mesh: MakeMesh, node: str) -> None:
    got: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.write_eof()
        got.set_result(await reader.read())
        writer.close()

    mesh = await shouting(make_mesh, greet, cart_on=node)
    client = await dial(mesh)
    assert await receive(client, 100) == b"hello"
    await say(client, b"y" * 300_000)
    client.shutdown(socket.SHUT_WR)
    assert await asyncio.wait_for(got, 10) == b"Y" * 300_000
    client.close()
    await until(lambda: all_over(mesh))


@pytest.mark.parametrize(
    ("words", "flags", "reason"),
    [(b"stop!", "client_error", "no exclamations"), (b"what?", "agent_error", "internal error: ValueError")],
    ids=["refused", "bug"],
)
@BOTH
async def test_what_the_filter_refuses_cuts_the_connection_at_both_ends_and_is_in_the_log(
    make_mesh: MakeMesh, node: str, words: bytes, flags: str, reason: str
) -> None:
    ended = asyncio.Event()
    got = bytearray()

    async def service(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1000):
                got.extend(data)
                writer.write(data)
        ended.set()
        writer.close()

    mesh = await shouting(make_mesh, service, cart_on=node)
    client = await dial(mesh)
    await say(client, b"fine ")
    assert await receive(client, 5) == b"FINE "
    await say(client, words)
    with contextlib.suppress(ConnectionResetError):
        assert await receive(client, 1) == b""
    async with asyncio.timeout(20):
        await ended.wait()
    assert got == b"FINE "
    client.close()
    await until(lambda: all_over(mesh))
    mesh.agents["node-a"].runtime.access_log.flush()
    line = next(line for line in mesh.lines if '"node-a"' in line)
    assert f'"reason":"aborted","flags":"{flags}"' in line
    assert reason in line


@BOTH
async def test_an_abort_reaches_an_idle_client_at_once(make_mesh: MakeMesh, node: str) -> None:
    mesh = await shouting(make_mesh, cart_on=node)
    client = await dial(mesh)
    (connection,) = mesh.agents["node-a"].runtime.connections
    connection.relay.abort("no longer allowed")
    with contextlib.suppress(ConnectionResetError):
        assert await receive(client, 1) == b""
    await until(lambda: all_over(mesh))
    client.close()


@BOTH
async def test_an_abort_does_not_wait_for_a_client_that_does_not_read(make_mesh: MakeMesh, node: str) -> None:
    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(bytes(65536))
                await writer.drain()
        writer.close()

    mesh = await shouting(make_mesh, flood, cart_on=node)
    client = await dial(mesh)
    (connection,) = mesh.agents["node-a"].runtime.connections
    moved = -1
    while moved <= 0 or moved != connection.relay.bytes_to_client:  # until nothing moves any more: all buffers are full
        moved = connection.relay.bytes_to_client
        await asyncio.sleep(0.05)
    assert 0 < moved < 4 << 20, "what a client that does not read can make the agent hold is bounded"
    connection.relay.abort("no longer allowed")
    await until(lambda: all_over(mesh))
    client.close()


async def test_a_connection_is_listed_until_the_client_has_its_last_byte_and_its_slot_is_free_before(
    make_mesh: MakeMesh, shop: Callable[[str], str]
) -> None:
    size = 400_000  # more than the client's buffer, less than all buffers on the way

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(bytes(size))
        writer.close()

    mesh = await shouting(make_mesh, answer, text=shop("node-a").replace("{name: http}", "{name: http, maxConn: 1}"))
    client = await dial(mesh)
    runtime = mesh.agents["node-a"].runtime
    (connection,) = runtime.connections
    await until(lambda: connection.relay.closed, seconds=20)
    assert len(runtime.connections) == 1
    assert runtime.slots.taken("cart-0-uid", "http") == 0, "the service is rid of it"
    assert await receive(client, size + 1) == bytes(size)
    await until(lambda: all_over(mesh))
    client.close()


async def test_a_client_that_never_takes_its_last_bytes_is_cut_after_a_while(
    make_mesh: MakeMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filtering, "DELIVERY_SECONDS", 0.05)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(bytes(400_000))
        writer.close()

    mesh = await shouting(make_mesh, answer)
    client = await dial(mesh)
    await until(lambda: all_over(mesh), seconds=20)
    mesh.agents["node-a"].runtime.access_log.flush()
    assert "did not take its last bytes" in mesh.lines[-1]
    client.close()


@BOTH
async def test_without_descriptors_for_a_filter_the_connection_ends_and_leaves_no_slot(
    make_mesh: MakeMesh, node: str, caplog: pytest.LogCaptureFixture
) -> None:
    mesh = await shouting(make_mesh, cart_on=node)
    (await dial(mesh)).close()  # the tunnel session and the kept socket file are there
    await until(lambda: all_over(mesh), seconds=20)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = len(os.listdir("/proc/self/fd"))
    client = await mesh.open(request=b"")
    await until(lambda: len(os.listdir("/proc/self/fd")) >= held + 2, seconds=20)  # accepted: both ends are here
    # now leave room for the service's socket and not for a pair more
    highest = max(map(int, os.listdir("/proc/self/fd")))
    fillers = [os.open("/dev/null", os.O_RDONLY) for _ in range(highest + 1 - len(os.listdir("/proc/self/fd")) + 8)]
    limit = max(map(int, os.listdir("/proc/self/fd"))) + 1
    os.close(fillers.pop())  # one below the limit is free
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        await say(client, bytes((SHOUT,)))
        await mesh.verdict(client)
        assert await receive(client, 1) == b""
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for filler in fillers:
            os.close(filler)
    await until(lambda: all_over(mesh), seconds=20)
    assert "limit of open files" in caplog.text
    client.close()


@BOTH
async def test_whatever_both_applications_do_it_is_over_once_they_are_gone(make_mesh: MakeMesh, node: str) -> None:
    mesh = await shouting(make_mesh, cart_on=node)
    with socket.socket(socket.AF_UNIX) as listener:
        mesh.server_path(service="http").unlink()
        listener.bind(str(mesh.server_path()))
        listener.listen()
        listener.setblocking(False)
        for number in range(40):
            client = await dial(mesh)
            service, _ = await asyncio.get_running_loop().sock_accept(listener)
            service.setblocking(False)
            ends = await storm(number, client, service)
            await until(lambda: all_over(mesh))
            judge(ends)
