"""Version 2 of the handshake through a real agent: wishes, deadlines, what a reply tells, hand-off, and a client in C."""

from __future__ import annotations

import array
import asyncio
import os
import re
import socket
from asyncio.subprocess import PIPE
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from meshless_handshake_v2 import ClientHandshake, ClientLease, Established, Notice, Refused

from meshless_core import HandshakeRequest, ReplyCode, ServiceId
from tests.protocol.c_client.building import build_c_client

MakeMesh = Callable[..., Awaitable[Any]]
BOTH = pytest.mark.parametrize("node", ["node-a", "node-b"], ids=["same-node", "cross-node"])
HTTP = ServiceId("http", "cart", "shop")
VERSIONS = """
apiVersion: meshless.dev/v1
kind: Meshlet
metadata: {namespace: shop, name: web}
spec: {client: [{namespace: shop, meshlet: cart, service: http}]}
---
apiVersion: meshless.dev/v1
kind: Meshlet
metadata: {namespace: shop, name: cart}
spec:
  server:
    selector: {app: cart}
    services: [{name: http}]
    canary: [{version: v1, weight: 1}, {version: v2, weight: 1}, {version: v3, weight: 0}]
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: web-0, uid: web-0-uid, labels: {meshless/meshlet: web}}
spec: {nodeName: node-a}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: cart-1, uid: cart-1-uid, labels: {meshless/meshlet: cart, app: cart, version: v1}}
spec: {nodeName: node-a}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: cart-2, uid: cart-2-uid, labels: {meshless/meshlet: cart, app: cart, version: v2}}
spec: {nodeName: node-b}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: cart-3, uid: cart-3-uid, labels: {meshless/meshlet: cart, app: cart, version: v3}}
spec: {nodeName: node-a}
"""
ALONE = """
---
apiVersion: meshless.dev/v1
kind: Meshlet
metadata: {namespace: shop, name: bank}
spec: {server: {selector: {app: bank}, services: [{name: http}]}}
"""


def asking(**wishes: Any) -> HandshakeRequest:
    return HandshakeRequest(HTTP, **wishes)


async def dial(mesh: Any, request: HandshakeRequest, behind: bytes = b"") -> tuple[Established | Refused, socket.socket]:
    """The verdict, read without one byte of the application's."""
    handshake = ClientHandshake(request)
    client = await mesh.open(request=handshake.request + behind)
    async with asyncio.timeout(15):
        while (answer := handshake.receive_data(await asyncio.get_running_loop().sock_recv(client, handshake.wanted))) is None:
            pass
    return answer, client


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def receive(connection: socket.socket, size: int) -> bytes:
    data = b""
    async with asyncio.timeout(15):
        while len(data) < size and (part := await asyncio.get_running_loop().sock_recv(connection, size - len(data))):
            data += part
    return data


async def with_versions(make_mesh: MakeMesh) -> Any:
    mesh = await make_mesh(VERSIONS)
    for pod in ("cart-1", "cart-2", "cart-3"):
        await mesh.serve(echo, pod)
    return mesh


async def chosen(mesh: Any, **wishes: Any) -> str | None:
    answer, client = await dial(mesh, asking(**wishes))
    client.close()
    assert isinstance(answer, Established)
    return answer.version


# --- what a reply tells ----------------------------------------------------------------------------------------------


@BOTH
async def test_a_reply_tells_the_connection_the_version_and_the_pod(make_mesh: MakeMesh, node: str) -> None:
    mesh = await make_mesh(cart_on=node)
    await mesh.serve(echo)
    answer, client = await dial(mesh, asking(timeout=5.0), behind=b"early ")
    assert isinstance(answer, Established)
    assert (answer.version, answer.endpoint, answer.descriptor_follows) == ("v1", "shop/cart-0", False)
    await asyncio.get_running_loop().sock_sendall(client, b"bytes")
    assert await receive(client, 11) == b"early bytes"
    client.close()
    assert answer.connection_id is not None
    async with asyncio.timeout(20):
        while not any(answer.connection_id.hex() in line for line in mesh.lines):
            await asyncio.sleep(0.005)


async def test_a_refusal_says_why_and_when_to_try_again(make_mesh: MakeMesh) -> None:
    mesh = await make_mesh()
    answer, client = await dial(mesh, asking())  # nobody serves
    client.close()
    assert isinstance(answer, Refused)
    assert (answer.code, answer.form) == (ReplyCode.SERVICE_REFUSED, 2)
    assert "shop/cart-0" in answer.text
    assert answer.retry_after is not None
    assert answer.connection_id is not None


async def test_what_a_refused_client_is_told_does_not_tell_whether_the_service_exists(make_mesh: MakeMesh, shop: Any) -> None:
    mesh = await make_mesh(shop("node-a") + ALONE)
    texts = []
    for meshlet in ("bank", "nobody"):
        answer, client = await dial(mesh, HandshakeRequest(ServiceId("http", meshlet, "shop"), version_pin="v2"))
        client.close()
        assert isinstance(answer, Refused)
        assert answer.code is ReplyCode.ACCESS_DENIED
        texts.append(answer.text.replace(meshlet, "NAME"))
    assert texts[0] == texts[1] != ""


async def test_a_malformed_request_is_told_what_is_wrong_with_it(make_mesh: MakeMesh) -> None:
    mesh = await make_mesh()
    client = await mesh.open(request=bytes.fromhex("02 0012 0e") + b"http.cart.shop" + bytes.fromhex("aa 0000"))
    handshake = ClientHandshake(asking())
    answer = None
    while answer is None:
        answer = handshake.receive_data(await asyncio.get_running_loop().sock_recv(client, handshake.wanted))
    assert isinstance(answer, Refused)
    assert answer.code is ReplyCode.MALFORMED_REQUEST
    assert "0xaa" in answer.text
    assert await receive(client, 1) == b""
    client.close()


# --- wishes ----------------------------------------------------------------------------------------------------------


async def test_the_same_sticky_key_gets_the_same_version_and_keys_spread(make_mesh: MakeMesh) -> None:
    mesh = await with_versions(make_mesh)
    found = {}
    for number in range(12):
        key = b"user-%d" % number
        found[key] = {await chosen(mesh, sticky_key=key) for _ in range(4)}
    assert all(len(versions) == 1 for versions in found.values())
    assert set.union(*found.values()) == {"v1", "v2"}


async def test_a_pinned_version_is_chosen_whatever_the_weights_and_the_sticky_key_say(make_mesh: MakeMesh) -> None:
    mesh = await with_versions(make_mesh)
    for version in ("v1", "v2"):
        assert {await chosen(mesh, version_pin=version) for _ in range(6)} == {version}
        assert {await chosen(mesh, version_pin=version, sticky_key=b"user-%d" % n) for n in range(6)} == {version}


@pytest.mark.parametrize("pin", ["v9", "v3"], ids=["unknown", "weight 0"])
async def test_a_pin_that_cannot_be_chosen_falls_back_to_the_normal_choice(make_mesh: MakeMesh, pin: str) -> None:
    mesh = await with_versions(make_mesh)
    assert {await chosen(mesh, version_pin=pin) for _ in range(8)} == {"v1", "v2"}
    assert len({await chosen(mesh, version_pin=pin, sticky_key=b"user-7") for _ in range(6)}) == 1


async def test_the_deadline_of_the_client_ends_the_attempt_with_timeout(make_mesh: MakeMesh) -> None:
    mesh = await make_mesh()
    stuck = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    stuck.bind(str(mesh.server_path()))
    stuck.listen(0)
    waiting = []
    while True:  # fill the backlog: from here on the agent can only wait
        one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        waiting.append(one)
        try:
            one.connect(str(mesh.server_path()))
        except BlockingIOError:
            break
    answer, client = await dial(mesh, asking(timeout=0.25))
    for one in (*waiting, stuck, client):
        one.close()
    assert isinstance(answer, Refused)
    assert answer.code is ReplyCode.TIMEOUT
    assert "0.25" in answer.text


# --- hand-off --------------------------------------------------------------------------------------------------------


async def hand_over(mesh: Any) -> tuple[Established, socket.socket, socket.socket]:
    """A handed-over connection and its lease."""
    answer, lease = await dial(mesh, asking(accepts_descriptor=True))
    assert isinstance(answer, Established)
    assert answer.descriptor_follows
    async with asyncio.timeout(20):
        while True:
            try:
                data, descriptors, flags, _ = socket.recv_fds(lease, 1, 4)
                break
            except BlockingIOError:
                await asyncio.sleep(0.001)
    assert (data, len(descriptors), flags & socket.MSG_CTRUNC) == (b"\0", 1, 0)
    return answer, socket.socket(fileno=descriptors[0]), lease


async def slot_is_free(mesh: Any) -> None:
    async with asyncio.timeout(20):
        while len(mesh.agents["node-a"].runtime.connections):
            await asyncio.sleep(0.002)


async def test_a_client_beside_its_service_gets_the_services_socket_itself(make_mesh: MakeMesh) -> None:
    mesh = await make_mesh()
    await mesh.serve(echo)
    answer, service, lease = await hand_over(mesh)
    assert not os.get_blocking(service.fileno())
    service.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(service, b"hello")
    assert await receive(service, 5) == b"hello"
    (connection,) = mesh.agents["node-a"].runtime.connections
    assert (connection.id, connection.transport) == (answer.connection_id, "handoff")
    service.close()
    lease.close()
    await slot_is_free(mesh)


async def test_one_large_read_brings_the_reply_and_the_descriptor_and_no_notice_behind_it(make_mesh: MakeMesh) -> None:
    mesh = await make_mesh()
    await mesh.serve(echo)
    handshake = ClientHandshake(asking(accepts_descriptor=True))
    client = await mesh.open(request=handshake.request)
    runtime = mesh.agents["node-a"].runtime
    async with asyncio.timeout(20):
        while not len(runtime.connections):
            await asyncio.sleep(0.002)
    (connection,) = runtime.connections
    connection.relay.drain("soon")  # reply, descriptor and notice are all waiting now
    data, control, flags, _ = client.recvmsg(65536, 1024)
    answer = handshake.receive_data(data)
    assert isinstance(answer, Established)
    descriptors = array.array("i")
    for level, kind, value in control:
        assert (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
        descriptors.frombytes(value)
    handshake.receive_descriptor(handshake.trailing_data, len(descriptors))
    assert not flags & socket.MSG_CTRUNC
    assert ClientLease().receive_data(client.recv(65536)) == [Notice("drain", "soon")]
    socket.socket(fileno=descriptors[0]).close()
    client.close()


async def test_early_bytes_in_spite_of_the_offer_are_relayed_not_lost(make_mesh: MakeMesh) -> None:
    mesh = await make_mesh()
    await mesh.serve(echo)
    answer, client = await dial(mesh, asking(accepts_descriptor=True), behind=b"early")
    assert isinstance(answer, Established)
    assert not answer.descriptor_follows
    assert await receive(client, 5) == b"early"
    client.close()


async def test_a_client_on_another_node_that_offers_is_relayed(make_mesh: MakeMesh) -> None:
    mesh = await make_mesh(cart_on="node-b")
    await mesh.serve(echo)
    answer, client = await dial(mesh, asking(accepts_descriptor=True))
    assert isinstance(answer, Established)
    assert not answer.descriptor_follows
    client.close()


async def test_bytes_on_a_lease_revoke_it(make_mesh: MakeMesh) -> None:
    mesh = await make_mesh()
    await mesh.serve(echo)
    _, service, connection = await hand_over(mesh)
    await asyncio.get_running_loop().sock_sendall(connection, b"?")
    lease = ClientLease()
    (notice,) = lease.receive_data(await receive(connection, 4096))
    assert notice.kind == "revoked"
    assert "lease" in notice.text
    service.close()
    connection.close()


# --- the client in C -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def c_client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_c_client(tmp_path_factory.mktemp("c-client"))


RunC = Callable[..., Awaitable[asyncio.subprocess.Process]]


@pytest.fixture
def start_c(c_client: Path) -> RunC:
    async def start(mesh: Any, *wishes: str, service: str = "http.cart.shop") -> asyncio.subprocess.Process:
        path = mesh.folder / "pods" / "shop" / "web-0" / "client" / "meshless"
        return await asyncio.create_subprocess_exec(
            c_client, "connect", path, service, *wishes, stdin=PIPE, stdout=PIPE, stderr=PIPE
        )

    return start


async def finished(process: asyncio.subprocess.Process, data: bytes = b"") -> tuple[bytes, str, int | None]:
    async with asyncio.timeout(20):
        output, said = await process.communicate(data)
    return output, said.decode(), process.returncode


@BOTH
@pytest.mark.parametrize("offer", [(), ("accepts_descriptor=1",)], ids=["relayed", "offering"])
async def test_the_c_client_talks_to_a_service(make_mesh: MakeMesh, start_c: RunC, node: str, offer: tuple[str, ...]) -> None:
    mesh = await make_mesh(cart_on=node)
    await mesh.serve(echo)
    data = b"0123456789" * 50_000
    process = await start_c(mesh, "deadline_ms=5000", "sticky_key=757365722d37", *offer)
    output, said, status = await finished(process, data)
    assert (output == data, status) == (True, 0), said
    assert said.startswith("established code=0 form=2 connection_id=")
    assert ("leased" in said) is (bool(offer) and node == "node-a")
    if "leased" in said:
        assert f"endpoint={b'shop/cart-0'.hex()}" in said


async def test_the_c_client_is_told_why_it_is_refused(make_mesh: MakeMesh, start_c: RunC) -> None:
    mesh = await make_mesh()
    _, said, status = await finished(await start_c(mesh, service="http.nobody.shop"))
    assert status == 1
    match = re.match(r"refused code=4 form=2 connection_id=[0-9a-f]{32} text=([0-9a-f]+)", said)
    assert match is not None, said
    assert "a policy said no" in bytes.fromhex(match[1]).decode()


async def test_the_c_client_stops_when_its_lease_is_revoked(make_mesh: MakeMesh, start_c: RunC, shop: Any) -> None:
    mesh = await make_mesh()
    await mesh.serve(echo)
    process = await start_c(mesh, "accepts_descriptor=1")
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"hello")
    assert await asyncio.wait_for(process.stdout.readexactly(5), 10) == b"hello"
    declared = "spec: {client: [{namespace: shop, meshlet: cart, service: http}]}"
    await mesh.apply(shop("node-a").replace(declared, "spec: {client: []}"))
    async with asyncio.timeout(10):
        assert await process.wait() == 4
    assert process.stderr is not None
    assert b"notice kind=revoked" in await process.stderr.read()
    await slot_is_free(mesh)


async def test_the_c_client_goes_on_when_the_agent_stops(make_mesh: MakeMesh, start_c: RunC) -> None:
    mesh = await make_mesh()
    await mesh.serve(echo)
    process = await start_c(mesh, "accepts_descriptor=1")
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdin.write(b"before")
    assert await asyncio.wait_for(process.stdout.readexactly(6), 10) == b"before"
    agent = mesh.agents["node-a"]
    await agent.drain()
    said = b""
    async with asyncio.timeout(10):
        while b"released" not in said:
            said += await process.stderr.readline()
    assert b"notice kind=drain" in said
    process.stdin.write(b"after")
    assert await asyncio.wait_for(process.stdout.readexactly(5), 10) == b"after"
    assert (await finished(process))[2] == 0


async def test_the_c_client_falls_back_to_version_1(make_mesh: MakeMesh, start_c: RunC) -> None:
    mesh = await make_mesh()
    await mesh.serve(echo)
    del mesh.agents["node-a"].runtime.handshakes[2]
    output, said, status = await finished(await start_c(mesh, "accepts_descriptor=1"), b"hello")
    assert (output, status) == (b"hello", 0)
    assert said.splitlines() == ["refused code=1 form=1", "version 1 code=0"]
