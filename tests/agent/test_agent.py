"""What an agent promises, on one node and across two, with real sockets and real TLS."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import stat
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from meshless_core.types import AuthorizationRequest, Decision, ReplyCode, Verdict
from tests.agent.scraping import scrape, until_counted

MakeMesh = Callable[..., Awaitable[Any]]
BOTH = pytest.mark.parametrize("node", ["node-a", "node-b"], ids=["same-node", "cross-node"])


OTHER = """
---
apiVersion: meshless.dev/v1
kind: Meshlet
metadata: {namespace: shop, name: other}
spec: {client: [{namespace: shop, meshlet: cart, service: http}]}
"""


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


@BOTH
async def test_a_client_reaches_the_service_and_half_close_is_kept(make_mesh: MakeMesh, node: str) -> None:
    mesh = await make_mesh(cart_on=node)

    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = await reader.read()
        writer.write(b"%d" % len(data))
        writer.close()

    await mesh.serve(count)
    reader, writer = await mesh.dial()
    writer.write(b"x" * 300_000)
    writer.write_eof()
    assert await reader.read() == b"300000"
    writer.close()


@BOTH
async def test_early_bytes_behind_the_request_arrive_first_and_in_order(make_mesh: MakeMesh, node: str) -> None:
    mesh = await make_mesh(cart_on=node)
    await mesh.serve(_echo)
    client = await mesh.open(request=b"\x01\x0ehttp.cart.shop" + b"early ")
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(client, b"bytes")
    assert await mesh.verdict(client) is ReplyCode.OK
    got = b""
    while len(got) < 11:
        got += await loop.sock_recv(client, 100)
    assert got == b"early bytes"
    client.close()


async def test_a_request_may_come_byte_by_byte(make_mesh: MakeMesh) -> None:
    mesh = await make_mesh()
    await mesh.serve(_echo)
    client = await mesh.open(request=b"")
    for byte in b"\x01\x0ehttp.cart.shop":
        await asyncio.get_running_loop().sock_sendall(client, bytes([byte]))
        await asyncio.sleep(0)
    assert await mesh.verdict(client) is ReplyCode.OK
    client.close()


@pytest.mark.parametrize(
    ("request_bytes", "code"),
    [
        (b"\x07hello", ReplyCode.UNSUPPORTED_VERSION),
        (b"\x01\x00", ReplyCode.MALFORMED_REQUEST),
        (b"\x01\x03a.b", ReplyCode.MALFORMED_REQUEST),
        (b"\x01\x0eHTTP.cart.shop", ReplyCode.MALFORMED_REQUEST),
        (b"\x01\x0ftls.nobody.shop", ReplyCode.ACCESS_DENIED),
    ],
)
async def test_every_refusal_has_its_code(make_mesh: MakeMesh, request_bytes: bytes, code: ReplyCode) -> None:
    mesh = await make_mesh()
    assert await mesh.refusal(request=request_bytes) is code


async def test_what_is_not_declared_is_denied_whether_it_exists_or_not(make_mesh: MakeMesh) -> None:
    mesh = await make_mesh()
    assert await mesh.refusal(pod="cart-0", request=b"\x01\x0ehttp.cart.shop") is ReplyCode.ACCESS_DENIED
    assert await mesh.refusal(pod="cart-0", request=b"\x01\x10http.absent.shop") is ReplyCode.ACCESS_DENIED


async def test_declared_but_absent_is_not_found(make_mesh: MakeMesh, shop: Callable[[str], str]) -> None:
    mesh = await make_mesh(shop("node-a").replace("service: http", "service: other"))
    assert await mesh.refusal(request=b"\x01\x0fother.cart.shop") is ReplyCode.SERVICE_NOT_FOUND


async def test_a_pod_of_no_meshlet_is_unknown(make_mesh: MakeMesh, shop: Callable[[str], str]) -> None:
    mesh = await make_mesh(shop("node-a").replace("meshless/meshlet: web", "meshless/meshlet: nobody"))
    assert await mesh.refusal() is ReplyCode.UNKNOWN_CLIENT


async def test_no_ready_pod_is_no_endpoint(make_mesh: MakeMesh, shop: Callable[[str], str]) -> None:
    mesh = await make_mesh(shop("node-a").replace("selector: {app: cart}", "selector: {app: other}"))
    assert await mesh.refusal() is ReplyCode.NO_ENDPOINT


@BOTH
async def test_a_missing_server_socket_is_refused_with_the_reason_in_the_log(make_mesh: MakeMesh, node: str) -> None:
    mesh = await make_mesh(cart_on=node)
    assert await mesh.refusal() is ReplyCode.SERVICE_REFUSED
    mesh.agents["node-a"].runtime.access_log.flush()
    entry = json.loads(mesh.lines[-1].splitlines()[-1])
    assert entry["code"] == "SERVICE_REFUSED"
    assert "server/http does not exist" in entry["detail"]


@BOTH
async def test_a_refusal_counts_for_the_version_that_was_chosen(make_mesh: MakeMesh, node: str) -> None:
    mesh = await make_mesh(cart_on=node)
    assert await mesh.refusal() is ReplyCode.SERVICE_REFUSED
    labels = {"reason": "connect_failed", "flags": "service_refused", "destination_version": "v1", "source_meshlet": "web"}
    await until_counted(mesh, 1, "meshless_connections_refused_total", reporter="source", **labels)
    if node == "node-b":
        await until_counted(mesh, 1, "meshless_connections_refused_total", node, reporter="destination", **labels)


async def test_a_client_that_leaves_before_it_is_answered_is_counted_as_that(make_mesh: MakeMesh) -> None:
    mesh = await make_mesh(authorizers=[("late", _Saying(_hang))])
    client = await mesh.open()
    async with asyncio.timeout(5):
        while not mesh.agents["node-a"].runtime.connecting:
            await asyncio.sleep(0.005)
    client.close()
    await until_counted(mesh, 1, "meshless_connections_refused_total", reason="client_gone", flags="client_gone")
    mesh.agents["node-a"].runtime.access_log.flush()
    assert json.loads(mesh.lines[-1])["flags"] == "client_gone"


@BOTH
async def test_a_connection_that_is_taken_back_says_so_at_both_agents(
    make_mesh: MakeMesh, shop: Callable[[str], str], node: str
) -> None:
    mesh = await make_mesh(cart_on=node)
    await mesh.serve(_echo)
    reader, writer = await mesh.dial()
    await mesh.apply(shop(node).replace("spec: {client: [{namespace: shop, meshlet: cart, service: http}]}", "spec: {}"))
    with contextlib.suppress(ConnectionResetError):
        assert await reader.read() == b""
    writer.close()
    name = "meshless_connections_closed_total"
    words = set()
    for agent in {"node-a", node}:
        await until_counted(mesh, 1, name, agent, reason="aborted")
        words |= {sample.labels["flags"] for sample in await scrape(mesh, agent) if sample.name == name}
    assert words in ({"revoked"}, {"revoked", "cut"}), "whoever was first cut it for that, and the other was told or did it too"


async def test_a_connection_that_a_drain_cuts_says_so(make_mesh: MakeMesh) -> None:
    mesh = await make_mesh()
    await mesh.serve(_echo)
    _, writer = await mesh.dial()
    await mesh.agents["node-a"].drain()
    await until_counted(mesh, 1, "meshless_connections_closed_total", reason="aborted", flags="draining")
    writer.close()


@pytest.mark.parametrize("kind", ["symlink", "fifo", "directory", "file", "dead"])
async def test_a_server_socket_that_is_none_is_refused(make_mesh: MakeMesh, kind: str, tmp_path: Any) -> None:
    mesh = await make_mesh()
    path = mesh.server_path()
    match kind:
        case "symlink":
            await mesh.serve(_echo, service="real")
            path.symlink_to(mesh.server_path(service="real"))
        case "fifo":
            os.mkfifo(path)
        case "directory":
            path.mkdir()
        case "file":
            path.write_text("")
        case "dead":
            import socket

            with socket.socket(socket.AF_UNIX) as dead:
                dead.bind(str(path))
    assert await mesh.refusal() is ReplyCode.SERVICE_REFUSED


@BOTH
async def test_max_conn_counts_at_the_pod_and_frees_at_close(
    make_mesh: MakeMesh, shop: Callable[[str], str], node: str
) -> None:
    mesh = await make_mesh(shop(node).replace("{name: http}", "{name: http, maxConn: 2}"))
    await mesh.serve(_echo)
    first, second = await mesh.dial(), await mesh.dial()
    assert await mesh.refusal() is ReplyCode.CONNECTION_LIMIT
    first[1].close()
    slots = mesh.agents[node].runtime.slots
    async with asyncio.timeout(20):
        while slots.taken("cart-0-uid", "http") > 1:
            await asyncio.sleep(0.005)
    third = await mesh.dial()
    for _, writer in (second, third):
        writer.close()
    async with asyncio.timeout(20):
        while len(slots):
            await asyncio.sleep(0.005)


@BOTH
async def test_an_idle_connection_is_closed(make_mesh: MakeMesh, shop: Callable[[str], str], node: str) -> None:
    mesh = await make_mesh(shop(node).replace("{name: http}", "{name: http, idleTimeout: 200ms}"))
    await mesh.serve(_echo)
    reader, writer = await mesh.dial()
    async with asyncio.timeout(20):
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
    writer.close()


@BOTH
async def test_a_live_connection_is_cut_when_it_is_no_longer_allowed(
    make_mesh: MakeMesh, shop: Callable[[str], str], node: str, caplog: pytest.LogCaptureFixture
) -> None:
    mesh = await make_mesh(cart_on=node)
    await mesh.serve(_echo)
    reader, writer = await mesh.dial()
    writer.write(b"hi")
    assert await reader.readexactly(2) == b"hi"
    await mesh.apply(shop(node).replace("spec: {client: [{namespace: shop, meshlet: cart, service: http}]}", "spec: {}"))
    async with asyncio.timeout(20):
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
    assert "is cut" in caplog.text
    writer.close()
    assert await mesh.refusal() is ReplyCode.ACCESS_DENIED


async def test_an_unrelated_change_touches_no_connection(make_mesh: MakeMesh, shop: Callable[[str], str]) -> None:
    mesh = await make_mesh(cart_on="node-b")
    await mesh.serve(_echo)
    reader, writer = await mesh.dial()
    await mesh.apply(shop("node-b") + OTHER)
    writer.write(b"hi")
    assert await reader.readexactly(2) == b"hi"
    writer.close()


async def test_the_next_connection_over_a_tunnel_uses_the_warm_session(make_mesh: MakeMesh) -> None:
    mesh = await make_mesh(cart_on="node-b")
    await mesh.serve(_echo)
    for _ in range(5):
        reader, writer = await mesh.dial()
        writer.write(b"ping")
        assert await reader.readexactly(4) == b"ping"
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()
        async with asyncio.timeout(20):
            while mesh.agents["node-a"].outbound.idle != 1:
                await asyncio.sleep(0.005)
    text = mesh.agents["node-a"].runtime.metrics.text().decode()
    assert 'meshless_tunnel_handshakes_total{result="ok",role="client"} 1.0' in text


async def test_a_client_that_does_not_finish_its_request_gets_timeout(make_mesh: MakeMesh) -> None:
    from meshless_core.config import Seconds

    mesh = await make_mesh(settings={"handshake_timeout": Seconds(0.1)})
    assert await mesh.refusal(request=b"\x01\x0eht") is ReplyCode.TIMEOUT


async def test_too_many_incomplete_requests_of_one_pod_hurt_no_other(make_mesh: MakeMesh) -> None:
    mesh = await make_mesh(settings={"max_handshakes_per_pod": 4})
    await mesh.serve(_echo)
    held = [await mesh.open(pod="cart-0", request=b"\x01") for _ in range(4)]
    assert await mesh.refusal(pod="cart-0", request=b"\x01") is ReplyCode.OVERLOADED
    _, writer = await mesh.dial()
    writer.close()
    for client in held:
        client.close()


class _Saying:
    def __init__(self, answer: Any) -> None:
        self._answer = answer

    async def authorize(self, request: AuthorizationRequest) -> Any:
        return await self._answer(request)


async def _hang(_request: AuthorizationRequest) -> Decision:
    await asyncio.sleep(3600)
    raise AssertionError


async def _block(_request: AuthorizationRequest) -> Decision:
    import time

    time.sleep(1.5)
    return Decision(Verdict.ALLOW, "late", "too late")


async def _raise(_request: AuthorizationRequest) -> Decision:
    raise RuntimeError("broken plugin")


async def _nonsense(_request: AuthorizationRequest) -> Any:
    return True


async def _allow(_request: AuthorizationRequest) -> Decision:
    return Decision(Verdict.ALLOW, "open", "everybody")


@pytest.mark.parametrize("answer", [_hang, _block, _raise, _nonsense], ids=lambda answer: answer.__name__)
async def test_an_authorizer_that_fails_means_no_and_the_agent_lives(make_mesh: MakeMesh, answer: Any) -> None:
    from meshless_core.config import Seconds

    mesh = await make_mesh(
        settings={"authorize_timeout": Seconds(0.3)}, authorizers=[("open", _Saying(_allow)), ("bad", _Saying(answer))]
    )
    await mesh.serve(_echo)
    assert await mesh.refusal() is ReplyCode.ACCESS_DENIED
    assert await mesh.refusal() is ReplyCode.ACCESS_DENIED


async def test_an_authorizer_that_waits_decides_too(make_mesh: MakeMesh) -> None:
    mesh = await make_mesh(cart_on="node-b", authorizers=[("open", _Saying(_allow))])
    await mesh.serve(_echo)
    _, writer = await mesh.dial()
    writer.close()


async def test_connects_wait_while_the_agent_is_replaced(make_mesh: MakeMesh) -> None:
    mesh = await make_mesh(cart_on="node-b")
    await mesh.serve(_echo)
    old = mesh.agents.pop("node-a")
    await old.drain()
    await old.stop()
    client = await mesh.open()
    await mesh.start_agent("node-a")
    assert await mesh.verdict(client) is ReplyCode.OK
    client.close()


@pytest.mark.parametrize("node", ["node-a", "node-b"])
async def test_a_socketd_started_again_costs_no_connection_and_no_connect(make_mesh: MakeMesh, node: str) -> None:
    mesh = await make_mesh(cart_on=node)
    await mesh.serve(_echo)
    reader, writer = await mesh.dial()

    async def connects() -> None:
        client = await mesh.open()
        assert await mesh.verdict(client) is ReplyCode.OK
        client.close()

    leaves = {name: agent.leaves.expiries() for name, agent in mesh.agents.items()}
    for name in ("node-a", "node-b"):
        await mesh.socketds[name].stop(remove=False)
        await mesh.issuer.remove_node(name)  # no new leaves: those there are have to stay
    await connects()  # the agent still has the listeners
    for name in ("node-a", "node-b"):
        await mesh.start_socketd(name)
    for _ in range(3):
        await connects()
    await mesh.ready()
    await connects()
    assert leaves == {name: agent.leaves.expiries() for name, agent in mesh.agents.items()}
    writer.write(b"still here")
    writer.write_eof()
    assert await reader.read() == b"still here"
    writer.close()


async def test_a_former_socket_of_a_pod_that_is_always_ready_does_not_keep_the_agent_from_its_work(make_mesh: MakeMesh) -> None:
    mesh = await make_mesh()
    agent, socketd = mesh.agents["node-a"], mesh.socketds["node-a"]
    agent.runtime.pods["web-0-uid"].sockets.listener.shutdown(socket.SHUT_RDWR)  # as ready as one that is flooded, for ever
    socketd.set_pods([])
    async with asyncio.timeout(20):
        while agent.runtime.pods:
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("answer", [None, b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x15\x03\x03\x00\x02\x02\x28"])
async def test_an_agent_that_is_not_there_or_not_authentic_is_tunnel_failed(make_mesh: MakeMesh, answer: bytes | None) -> None:
    mesh = await make_mesh(cart_on="node-b")
    await mesh.serve(_echo)
    await mesh.agents.pop("node-b").stop()
    impostor = None
    if answer is not None:

        async def pretend(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(answer)
            writer.close()

        host, port = mesh.addresses["node-b"].rsplit(":", 1)
        impostor = await asyncio.start_server(pretend, host, int(port))
    assert await mesh.refusal() is ReplyCode.TUNNEL_FAILED
    if impostor is not None:
        impostor.close()


async def test_the_admin_socket_tells_everything_and_is_private(make_mesh: MakeMesh) -> None:
    from meshless_core.cli.admin_client import AdminClient

    mesh = await make_mesh(cart_on="node-b")
    await mesh.serve(_echo)
    _, writer = await mesh.dial()
    path = mesh.folder / "node-a" / "admin.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    client = AdminClient(f"unix:{path}")
    assert (await client.get("/readyz"))[0] == 200
    [connection] = await client.get_json("/connections")
    assert connection["service"] == "http.cart.shop"
    assert connection["source_pod"] == "shop/web-0"
    assert connection["transport"] == "tunnel"
    explanation = await client.get_json("/explain", client="shop/web-0", service="http.cart.shop")
    assert explanation["codeName"] == "OK"
    status, body = await client.get("/metrics")
    assert status == 200
    assert b"meshless_connections_active" in body
    assert (await client.get("/nothing"))[0] == 404
    writer.close()


@BOTH
async def test_a_service_that_asks_is_told_who_connects(make_mesh: MakeMesh, shop: Callable[[str], str], node: str) -> None:
    mesh = await make_mesh(shop(node).replace("{name: http}", "{name: http, proxyProtocol: v2}"))
    got: asyncio.Queue[bytes] = asyncio.Queue()

    async def service(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        header = await reader.readexactly(16)
        fields = await reader.readexactly(int.from_bytes(header[14:16], "big"))
        got.put_nowait(header + fields)
        got.put_nowait(await reader.readexactly(5))
        writer.close()

    await mesh.serve(service)
    _, writer = await mesh.dial()
    writer.write(b"hello")
    async with asyncio.timeout(20):
        introduction = await got.get()
        assert introduction.startswith(b"\r\n\r\n\x00\r\nQUIT\n\x21\x00")
        assert b"spiffe://mesh.local/ns/shop/meshlet/web" in introduction
        assert b"web-0" in introduction
        assert await got.get() == b"hello"
    writer.close()
