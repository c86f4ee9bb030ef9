from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from meshless_sdk import asgi

VECTORS = json.loads((Path(__file__).parents[3] / "protocol/vectors/proxy-v2.json").read_text("utf-8"))["vectors"]
HEADER = bytes.fromhex("".join(VECTORS[0]["bytes"]))
REQUEST = b"GET / HTTP/1.1\r\nHost: http.cart.shop\r\n\r\n"


async def who(scope: dict[str, Any], receive: Any, send: Any) -> None:
    peer = scope.get("state", {}).get(asgi.PEER, "nobody told")
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": str(peer).encode()})


class Running:
    """A server in the test's loop."""

    def __init__(self, pod: Path, app: Any, **options: Any) -> None:
        self.path = str(pod / "server" / "http")
        self.server = asgi.Server(app, "http", lifespan="off", log_level="critical", **options)
        self.task = asyncio.create_task(self.server.serve())

    async def dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_unix_connection(self.path)

    async def stop(self) -> int:
        self.server.should_exit = True
        await self.task
        return self.server.cut


@pytest.fixture
async def run(pod: Path) -> AsyncIterator[Any]:
    begun: list[Running] = []

    def begin(app: Any, **options: Any) -> Running:
        begun.append(Running(pod, app, **options))
        return begun[-1]

    yield begin
    for one in begun:
        await one.stop()


async def answer(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    return (await reader.read(1000)).split(b"\r\n")[1] if b"chunked" in head.lower() else await reader.read(1000)


async def close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    await writer.wait_closed()


async def test_an_application_is_served_with_keep_alive(run: Any) -> None:
    reader, writer = await run(who).dial()
    for _ in range(2):
        writer.write(REQUEST)
        assert await answer(reader) == b"nobody told"
    await close(writer)


@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_the_peer_is_in_the_state_of_every_request_of_the_connection(run: Any, size: int) -> None:
    reader, writer = await run(who, proxy_protocol=True).dial()
    data = HEADER + REQUEST
    for at in range(0, len(data), size):
        writer.write(data[at : at + size])
        await asyncio.sleep(0)
    assert await answer(reader) == b"spiffe://mesh.local/ns/shop/meshlet/web"
    writer.write(REQUEST)
    assert await answer(reader) == b"spiffe://mesh.local/ns/shop/meshlet/web"
    await close(writer)


@pytest.mark.parametrize("said", [REQUEST, HEADER[:30], b""], ids=["a request", "half a header", "nothing"])
async def test_without_a_header_no_request_reaches_the_application(run: Any, said: bytes) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        raise AssertionError("called")

    reader, writer = await run(app, proxy_protocol=True, header_timeout=0.05).dial()
    writer.write(said)
    with contextlib.suppress(ConnectionResetError):  # closed with something of it unread
        assert await reader.read() == b""
    writer.close()


async def test_a_request_in_flight_is_finished_at_a_stop(run: Any) -> None:
    begun, proceed = asyncio.Event(), asyncio.Event()

    async def slow(scope: dict[str, Any], receive: Any, send: Any) -> None:
        begun.set()
        await proceed.wait()
        await who(scope, receive, send)

    running = run(slow)
    reader, writer = await running.dial()
    writer.write(REQUEST)
    await begun.wait()
    stopping = asyncio.create_task(running.stop())
    await asyncio.sleep(0.15)  # uvicorn looks ten times a second
    proceed.set()
    assert await answer(reader) == b"nobody told"
    assert await stopping == 0
    await close(writer)
    with pytest.raises(FileNotFoundError):
        await running.dial()


async def test_what_takes_longer_is_cut_and_counted(run: Any) -> None:
    begun = asyncio.Event()

    async def endless(scope: dict[str, Any], receive: Any, send: Any) -> None:
        begun.set()
        await asyncio.Event().wait()

    running = run(endless, grace=0.05)
    _, writer = await running.dial()
    writer.write(REQUEST)
    await begun.wait()
    assert await running.stop() == 1
    writer.close()


PROGRAM = """
import sys
from meshless_sdk import asgi, wsgi

async def asgi_app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})

def wsgi_app(environ, start_response):
    start_response("200 OK", [("content-length", "2")])
    return [b"ok"]

for _ in range(2):
    if sys.argv[1] == "asgi":
        cut = asgi.serve(asgi_app, "http", lifespan="off")
    else:
        cut = wsgi.serve(wsgi_app, "http")
    print("cut", cut, flush=True)
"""


@pytest.mark.parametrize("kind", ["asgi", "wsgi"])
def test_one_line_serves_until_sigterm_and_again(pod: Path, kind: str) -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM, kind], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(2):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
                client.settimeout(10)
                while True:
                    try:
                        client.connect(str(pod / "server" / "http"))
                        break
                    except (FileNotFoundError, ConnectionRefusedError):
                        assert process.poll() is None
                client.sendall(REQUEST)
                assert client.recv(1000).startswith(b"HTTP/1.1 200 OK")
                process.send_signal(signal.SIGTERM)
                assert process.stdout.readline() == "cut 0\n"
        assert process.wait(20) == 0
