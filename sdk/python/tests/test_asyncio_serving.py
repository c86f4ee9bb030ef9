from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from pathlib import Path

import meshless_sdk
import pytest
from meshless_sdk.asyncio_serving import AsyncServer, StreamConnection
from meshless_sdk.listening import Listener
from meshless_sdk.paths import address_of

pytestmark = pytest.mark.usefixtures("no_descriptor_leaks")

VECTORS = json.loads((Path(__file__).parents[3] / "protocol/vectors/proxy-v2.json").read_text("utf-8"))["vectors"]
HEADER = bytes.fromhex("".join(VECTORS[0]["bytes"]))
PEER = VECTORS[0]["expect"]["peer"]


async def echo(connection: StreamConnection) -> None:
    while data := await connection.reader.read(1000):
        connection.writer.write(data)


class Client:
    """A client's end."""

    def __init__(self, streams: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
        self.reader, self.writer = streams

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *error: object) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):  # cut on purpose
            await self.writer.wait_closed()

    async def exchange(self, data: bytes = b"ping") -> None:
        self.writer.write(data)
        assert await self.reader.readexactly(len(data)) == data


async def dial(pod: Path) -> Client:
    return Client(await asyncio.open_unix_connection(str(pod / "server" / "http")))


async def test_each_connection_has_an_id_of_its_own(pod: Path) -> None:
    seen: list[str] = []

    async def handler(connection: StreamConnection) -> None:
        seen.append(connection.id)
        assert connection.peer is None
        await echo(connection)

    async with await meshless_sdk.start_server(handler, "http") as server, await dial(pod) as one, await dial(pod) as two:
        await one.exchange()
        await two.exchange()
        assert server.connections == 2
        assert len(set(seen)) == 2


async def test_a_proxy_header_says_who_connects(pod: Path) -> None:
    async def handler(connection: StreamConnection) -> None:
        assert connection.peer is not None
        connection.writer.write(f"{connection.peer} {connection.id}\n".encode())

    async with await meshless_sdk.start_server(handler, "http", proxy_protocol=True), await dial(pod) as client:
        client.writer.write(HEADER)
        assert await client.reader.readline() == f"{PEER['identity']} {PEER['connection_id']}\n".encode()


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n", HEADER[:20]], ids=["no header", "half a header"])
async def test_without_a_complete_header_the_handler_is_never_called(pod: Path, said: bytes) -> None:
    async def handler(connection: StreamConnection) -> None:
        raise AssertionError("called")

    server = await meshless_sdk.start_server(handler, "http", proxy_protocol=True, header_timeout=0.05)
    async with server, await dial(pod) as client:
        client.writer.write(said)
        with contextlib.suppress(ConnectionResetError):  # closed with something of it unread
            assert await client.reader.read() == b""


async def test_a_failing_handler_ends_its_own_connection_only(pod: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def handler(connection: StreamConnection) -> None:
        if await connection.reader.read(3) == b"bad":
            raise RuntimeError("oops")
        await echo(connection)

    async with await meshless_sdk.start_server(handler, "http"), await dial(pod) as bad, await dial(pod) as good:
        bad.writer.write(b"bad")
        assert await bad.reader.read() == b""
        good.writer.write(b"yes")
        await good.exchange()
    assert "the handler failed on connection" in caplog.text


async def test_closing_serves_what_had_connected_and_admits_nobody_new(pod: Path) -> None:
    server = await meshless_sdk.start_server(echo, "http")
    clients = [await dial(pod) for _ in range(150)]  # more than the loop accepts in one turn
    closing = asyncio.create_task(server.close(10))
    for client in clients:
        await client.exchange()
        client.writer.close()
    assert await closing == 0
    with pytest.raises(FileNotFoundError):
        await dial(pod)


async def test_closing_cuts_and_counts_what_takes_longer(pod: Path) -> None:
    server = await meshless_sdk.start_server(echo, "http")
    async with await dial(pod) as one, await dial(pod) as two:
        await one.exchange()
        await two.exchange()
        assert await server.close(0.02) == 2
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await one.reader.readexactly(1)
    assert await server.close() == 0


async def test_sigterm_stops_gracefully_and_serving_again_works(pod: Path) -> None:
    for _ in range(2):
        server = await meshless_sdk.start_server(echo, "http")
        serving = asyncio.create_task(server.serve_forever(grace=10))
        async with await dial(pod) as client:
            await client.exchange()
            os.kill(os.getpid(), signal.SIGTERM)
            await client.exchange(b"still served")
        assert await serving == 0
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


async def test_a_service_that_is_served_already_is_refused(pod: Path) -> None:
    async with await meshless_sdk.start_server(echo, "http"):
        with pytest.raises(meshless_sdk.ListenError, match="a live server listens there already"):
            await meshless_sdk.start_server(echo, "http")


async def test_a_listener_that_waited_among_other_files_can_be_served(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 30)  # too long for an address: bound by way of a descriptor, whose number others get later
    folder.mkdir()
    listener = Listener("http", path=str(folder / "http"))
    with contextlib.ExitStack() as others:
        for _ in range(8):
            others.enter_context((tmp_path / "other").open("wb"))
        async with AsyncServer(echo, listener, None, 1000) as server:
            await server.begin()
            with address_of(str(folder / "http")) as address:
                streams = await asyncio.open_unix_connection(address)
            async with Client(streams) as client:
                await client.exchange()
    assert os.listdir(folder) == []
