"""curl as it comes, against an agent: through SOCKS5, through CONNECT, and with plain requests on the client's socket."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import attrs
import h11
import pytest

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed: apt-get install curl")

TWO_SERVICES = """
apiVersion: meshless.dev/v1
kind: Meshlet
metadata: {namespace: shop, name: web}
spec:
  client:
  - {namespace: shop, meshlet: cart, service: http}
  - {namespace: shop, meshlet: cart, service: admin}
  - {namespace: shop, meshlet: lost, service: http}
---
apiVersion: meshless.dev/v1
kind: Meshlet
metadata: {namespace: shop, name: cart}
spec:
  server:
    selector: {app: cart}
    services: [{name: http}, {name: admin}, {name: closed, allow: []}]
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: web-0, uid: web-0-uid, labels: {meshless/meshlet: web}}
spec: {nodeName: node-a}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: cart-0, uid: cart-0-uid, labels: {meshless/meshlet: cart, app: cart}}
spec: {nodeName: CART_NODE}
"""


@attrs.define
class Served:
    """What a server got."""

    connections: int = 0
    requests: list[tuple[str, str]] = attrs.Factory(list)
    bodies: list[int] = attrs.Factory(list)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer every request with its method, target, Host and the size of its body; keep the connection."""
        self.connections += 1
        connection = h11.Connection(h11.SERVER)
        with contextlib.suppress(ConnectionError), contextlib.closing(writer):
            while await self._answer_one(connection, reader, writer):
                connection.start_next_cycle()

    async def _answer_one(self, connection: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        request: h11.Request | None = None
        size = 0
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                if connection.they_are_waiting_for_100_continue:
                    writer.write(connection.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
                connection.receive_data(await reader.read(64 * 1024))
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.Data):
                size += len(event.data)
            elif isinstance(event, h11.EndOfMessage):
                break
            else:
                return False
        assert request is not None
        host = dict(request.headers)[b"host"].decode()
        self.requests.append((f"{request.method.decode()} {request.target.decode()}", host))
        self.bodies.append(size)
        body = f"{request.method.decode()} {request.target.decode()} for {host} with {size}\n".encode()
        response = h11.Response(status_code=200, headers=[("Content-Length", str(len(body)))])
        writer.write(connection.send(response) or b"")
        if request.method != b"HEAD":
            writer.write(connection.send(h11.Data(data=body)) or b"")
        writer.write(connection.send(h11.EndOfMessage()) or b"")
        await writer.drain()
        return connection.our_state is h11.DONE


@attrs.frozen
class Shop:
    """A mesh with a cart that speaks HTTP."""

    mesh: Any
    http: Served
    admin: Served

    @property
    def socket(self) -> Path:
        path: Path = self.mesh.folder / "pods" / "shop" / "web-0" / "client" / "meshless"
        return path

    async def curl(self, *arguments: str, expect: int = 0) -> str:
        """Run curl; what it wrote."""
        process = await asyncio.create_subprocess_exec(
            "curl", "-sS", "--max-time", "20", *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        out, err = await process.communicate()
        assert process.returncode == expect, f"curl: {process.returncode}: {err.decode()}{out.decode()}"
        return out.decode() + err.decode()

    def socks(self) -> tuple[str, str]:
        return "--proxy", f"socks5h://localhost{self.socket}"

    def plain(self) -> tuple[str, str]:
        return "--unix-socket", str(self.socket)


@pytest.fixture(params=["node-a", "node-b"], ids=["same node", "across nodes"])
async def shop(make_mesh: Callable[..., Awaitable[Any]], request: pytest.FixtureRequest) -> Shop:
    mesh = await make_mesh(TWO_SERVICES.replace("CART_NODE", request.param))
    made = Shop(mesh, Served(), Served())
    await mesh.serve(made.http.answer, service="http")
    await mesh.serve(made.admin.answer, service="admin")
    return made


@pytest.fixture
async def bridge(shop: Shop) -> AsyncIterator[str]:
    """The client's socket on a TCP port, for what curl can only do with a proxy on TCP."""

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(64 * 1024):
                writer.write(data)
                await writer.drain()
            writer.write_eof()

    async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_unix_connection(shop.socket)
        with contextlib.closing(writer), contextlib.closing(far_writer):
            await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer))

    server = await asyncio.start_server(join, "127.0.0.1", 0)
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()


async def test_socks5_reaches_a_service_by_name(shop: Shop) -> None:
    assert await shop.curl(*shop.socks(), "http://http.cart.shop/a?b") == "GET /a?b for http.cart.shop with 0\n"
    assert await shop.curl(*shop.socks(), "http://HTTP.cart.shop.:8080/") == "GET / for HTTP.cart.shop.:8080 with 0\n"


async def test_socks5_keeps_connections_of_two_services_apart(shop: Shop) -> None:
    said = await shop.curl(*shop.socks(), "http://http.cart.shop/1", "http://admin.cart.shop/2", "http://http.cart.shop/3")
    assert [line.split()[1] for line in said.splitlines()] == ["/1", "/2", "/3"]
    assert (shop.http.connections, shop.admin.connections) == (1, 1)


@pytest.mark.parametrize(
    ("url", "reply"),
    [
        ("http://http.lost.shop/", "(4)"),
        ("http://closed.cart.shop/", "(2)"),
        ("http://example.com/", "(4)"),
        ("http://127.0.0.1/", "(8)"),
        ("http://[::1]/", "(8)"),
    ],
)
async def test_socks5_tells_why_not(shop: Shop, url: str, reply: str) -> None:
    assert reply in await shop.curl(*shop.socks(), url, expect=97)


async def test_connect_is_a_tunnel(shop: Shop, bridge: str) -> None:
    said = await shop.curl("--proxytunnel", "--proxy", bridge, "http://http.cart.shop/a", "-d", "hello")
    assert said == "POST /a for http.cart.shop with 5\n"


async def test_connect_tells_why_not(shop: Shop, bridge: str) -> None:
    said = await shop.curl("--proxytunnel", "--proxy", bridge, "-i", "http://closed.cart.shop/", expect=56)
    assert "403" in said
    assert "Proxy-Status: meshless; error=http_request_denied" in said


async def test_an_http_proxy_without_a_tunnel_is_absolute_form_and_passes(shop: Shop, bridge: str) -> None:
    said = await shop.curl("--proxy", bridge, "http://http.cart.shop/a")
    assert said == "GET http://http.cart.shop/a for http.cart.shop with 0\n"


async def test_a_proxy_connection_used_for_two_services_never_brings_one_s_request_to_the_other(
    shop: Shop, bridge: str
) -> None:
    """curl keeps one connection to a proxy for all hosts: exactly what must not work by accident."""
    process = await asyncio.create_subprocess_exec(
        "curl", "-s", "--max-time", "20", "--proxy", bridge, "http://http.cart.shop/1", "http://admin.cart.shop/2",
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await process.communicate()
    assert b"/1 for http.cart.shop" in out
    assert all(host == "http.cart.shop" for _, host in shop.http.requests)
    assert all(host == "admin.cart.shop" for _, host in shop.admin.requests)


async def test_a_plain_request_goes_to_the_service_of_its_host(shop: Shop) -> None:
    assert await shop.curl(*shop.plain(), "http://http.cart.shop/a") == "GET /a for http.cart.shop with 0\n"
    assert await shop.curl(*shop.plain(), "http://admin.cart.shop:99/") == "GET / for admin.cart.shop:99 with 0\n"


async def test_a_connection_is_kept_for_the_same_host_and_another_one_opened_for_another(shop: Shop) -> None:
    urls = [f"http://{service}.cart.shop/{number}" for number, service in enumerate(["http", "http", "admin", "http"])]
    assert len((await shop.curl(*shop.plain(), *urls)).splitlines()) == 4
    assert [target for target, _ in shop.http.requests] == ["GET /0", "GET /1", "GET /3"]
    assert (shop.http.connections, shop.admin.connections) == (1, 1)


async def test_head_has_headers_only(shop: Shop) -> None:
    assert "200" in await shop.curl(*shop.plain(), "--head", "http://http.cart.shop/")


@pytest.mark.parametrize("way", ["a length", "a length without waiting", "chunks"])
async def test_ten_megabytes_arrive_and_the_connection_goes_on(shop: Shop, tmp_path: Path, way: str) -> None:
    size = 10 * 1024 * 1024
    file = tmp_path / "upload"
    file.write_bytes(bytes(range(256)) * (size // 256))
    how = {"a length": (), "a length without waiting": ("-H", "Expect:"), "chunks": ("-H", "Transfer-Encoding: chunked")}[way]
    url = "http://http.cart.shop/"
    said = await shop.curl(*shop.plain(), *how, "--data-binary", f"@{file}", url, "--next", *shop.plain(), url)
    assert said == f"POST / for http.cart.shop with {size}\nGET / for http.cart.shop with 0\n"
    assert shop.http.connections == 1


@pytest.mark.parametrize(
    ("url", "status", "error"),
    [
        ("http://http.lost.shop/", "404", "destination_not_found"),
        ("http://closed.cart.shop/", "403", "http_request_denied"),
        ("http://example.com/", "400", "http_request_error"),
    ],
)
@pytest.mark.parametrize("body", [(), ("--data-binary", "x" * 50_000)], ids=["GET", "POST"])
async def test_a_refusal_is_a_response_with_a_proxy_status(
    shop: Shop, url: str, status: str, error: str, body: tuple[str, ...]
) -> None:
    said = await shop.curl(*shop.plain(), "-i", *body, url)
    assert said.startswith(f"HTTP/1.1 {status} ")
    assert f"Proxy-Status: meshless; error={error}; details=" in said
    assert "Connection: close" in said
    assert shop.http.connections == 0


async def test_http_2_with_prior_knowledge_is_told_so(shop: Shop) -> None:
    process = await asyncio.create_subprocess_exec(
        "curl", "-s", "--max-time", "20", "--http2-prior-knowledge", *shop.plain(), "http://http.cart.shop/",
    )  # fmt: skip
    assert await process.wait() != 0
    assert shop.http.connections == 0


async def test_an_offer_of_http_2_is_declined_by_the_service_and_does_no_harm(shop: Shop) -> None:
    said = await shop.curl(*shop.plain(), "--http2", "http://http.cart.shop/1", "http://http.cart.shop/2")
    assert [line.split()[1] for line in said.splitlines()] == ["/1", "/2"]
