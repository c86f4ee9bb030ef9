"""When an agent accepts other agents, and what it bounds of those that have proven an identity."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from meshless_core.agent.inbound import listen_for_tunnels
from meshless_core.config import Seconds
from meshless_core.errors import ConfigError
from meshless_core.hookspecs import SecureStream
from meshless_core.identity import bind_issuer_socket
from meshless_core.relay import FramedSession
from meshless_core.types import AuthorizationRequest, Decision, Identity, ReplyCode, ServiceId, Verdict
from tests.agent.handing_over import until

MakeMesh = Callable[..., Awaitable[Any]]


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(await reader.read())
    writer.close()


async def test_of_idle_sessions_the_newest_are_kept_and_the_next_connection_is_made(make_mesh: MakeMesh) -> None:
    mesh = await make_mesh(cart_on="node-b", settings={"max_tunnels_idle": 2})
    await mesh.serve(_echo)
    client, server = mesh.agents["node-a"].outbound, mesh.agents["node-b"].inbound

    live = [await mesh.dial() for _ in range(5)]
    assert (server.active, server.idle) == (5, 0), "sessions in use are no idle ones"
    for reader, writer in live:
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()
        assert server.idle <= 2
    async with asyncio.timeout(20):
        while (server.active, server.idle, client.idle) != (0, 2, 2):
            await asyncio.sleep(0.005)

    for _ in range(3):
        reader, writer = await mesh.dial()
        writer.write(b"still")
        writer.write_eof()
        assert await reader.read() == b"still"
        writer.close()


@pytest.mark.parametrize("inline", [True, False], ids=["inline", "awaited"])
async def test_a_bug_in_deciding_costs_one_request_which_is_told_so(
    make_mesh: MakeMesh, inline: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    mesh = await make_mesh(cart_on="node-b", authorizers=None if inline else [("open", _Open())])
    await mesh.serve(_echo)
    admission = mesh.agents["node-b"].inbound._admission

    def bug(*_question: object) -> None:
        raise KeyError("a bug")

    with monkeypatch.context() as broken:
        broken.setattr(admission, "decide_inline" if inline else "decide", bug)
        assert await mesh.refusal() is ReplyCode.INTERNAL_ERROR
    assert "KeyError: 'a bug'" in caplog.text
    reader, writer = await mesh.dial()
    writer.write(b"fine again")
    writer.write_eof()
    assert await reader.read() == b"fine again"
    writer.close()


async def test_a_bug_behind_the_reply_costs_one_connection_and_nothing_of_it_stays_booked(
    make_mesh: MakeMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    mesh = await make_mesh(cart_on="node-b")
    await mesh.serve(_echo)
    runtime, relay = mesh.agents["node-b"].runtime, FramedSession.relay

    def bug(self: FramedSession, plain: socket.socket, **options: Any) -> object:
        if self.role == "server":
            raise KeyError("a bug")
        return relay(self, plain, **options)

    with monkeypatch.context() as broken:
        broken.setattr(FramedSession, "relay", bug)
        reader, writer = await mesh.dial()
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()
    await until(lambda: not len(runtime.connections) + len(runtime.slots) + mesh.agents["node-b"].inbound.active)
    reader, writer = await mesh.dial()
    writer.write(b"fine again")
    writer.write_eof()
    assert await reader.read() == b"fine again"
    writer.close()


class _Open:
    async def authorize(self, _request: AuthorizationRequest) -> Decision:
        return Decision(Verdict.ALLOW, "open", "everybody")


class _LeavesSlowly:
    """A transport that authenticates nobody, and whose cut connections take their time to close."""

    def __init__(self) -> None:
        self.may_leave = asyncio.Event()
        self.accepted: list[socket.socket] = []

    async def connect(self, address: str, *, source: Identity, target: Identity) -> SecureStream:
        raise NotImplementedError

    async def accept(self, connection: socket.socket) -> SecureStream:
        self.accepted.append(connection)
        try:
            await asyncio.Event().wait()
        finally:
            await self.may_leave.wait()
            connection.close()
        raise NotImplementedError


async def test_while_the_crowded_out_are_leaving_nobody_is_accepted_and_the_loop_rests(make_mesh: MakeMesh) -> None:
    mesh = await make_mesh(cart_on="node-b", settings={"max_tunnels_unauthenticated": 4})
    inbound = mesh.agents["node-b"].inbound
    transport = inbound._transport = _LeavesSlowly()
    reactor = mesh.agents["node-b"].runtime.reactor
    watched = 0
    add = reactor.add

    def counting(*arguments: Any) -> None:
        nonlocal watched
        watched += 1
        add(*arguments)

    host, port = mesh.addresses["node-b"].rsplit(":", 1)
    async with asyncio.timeout(20):
        writers = []
        for number in range(1, 6):
            writers.append((await asyncio.open_connection(host, int(port)))[1])
            while len(transport.accepted) < number:
                await asyncio.sleep(0.005)
        reactor.add = counting
        writers.append((await asyncio.open_connection(host, int(port)))[1])
        while inbound._accepting:
            await asyncio.sleep(0.005)
        for _ in range(50):
            await asyncio.sleep(0)
        assert (watched, len(transport.accepted)) == (0, 5)
        transport.may_leave.set()
        while len(transport.accepted) < 6:
            await asyncio.sleep(0.005)
    assert watched == 1
    for writer in writers:
        writer.close()


@pytest.mark.parametrize("missing", ["pods", "leaves"])
async def test_tunnels_wait_until_an_agent_started_again_has_pods_and_leaves(
    make_mesh: MakeMesh, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setattr("meshless_core.agent.agent._PATIENCE", 60.0)
    mesh = await make_mesh(
        cart_on="node-b",
        settings={"endpoint_timeout": Seconds(60), "connect_timeout": Seconds(60), "max_tunnels_unauthenticated": 8},
    )
    await mesh.serve(_echo)
    _, writer = await mesh.dial()
    writer.close()
    await mesh.agents["node-b"].stop()
    if missing == "pods":
        await mesh.socketds["node-b"].stop(remove=False)
    else:
        await mesh.issuer.remove_node("node-b")
        shutil.rmtree(mesh.folder / "node-b" / "state" / "leaves")
    await mesh.start_agent("node-b")
    clients = [await mesh.open() for _ in range(20)]
    waiting = [asyncio.create_task(mesh.verdict(client)) for client in clients]
    agent = mesh.agents["node-b"]
    async with asyncio.timeout(20):
        while missing == "leaves" and not agent.leaves.problems():
            await asyncio.sleep(0.005)
        while mesh.agents["node-a"].runtime.establishing < len(clients):
            await asyncio.sleep(0.005)
    assert not any(task.done() for task in waiting)
    assert agent.inbound.authenticating == 0
    if missing == "pods":
        await mesh.start_socketd("node-b")
    else:
        mesh.issuer.add_node("node-b", bind_issuer_socket(mesh.folder / "node-b" / "issuer.sock"))
    assert await asyncio.gather(*waiting) == [ReplyCode.OK] * len(clients)
    for client in clients:
        client.close()


async def test_an_agent_whose_leaf_does_not_come_says_so_after_a_while(
    make_mesh: MakeMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    mesh = await make_mesh(cart_on="node-b")
    await mesh.serve(_echo)
    await mesh.agents["node-b"].stop()
    await mesh.issuer.remove_node("node-b")
    await mesh.start_agent("node-b")
    _, writer = await mesh.dial()  # the leaf on disk is enough
    writer.close()
    await mesh.agents["node-b"].stop()
    shutil.rmtree(mesh.folder / "node-b" / "state" / "leaves")
    monkeypatch.setattr("meshless_core.agent.agent._PATIENCE", 0.05)
    await mesh.start_agent("node-b")
    assert await mesh.refusal() is ReplyCode.TUNNEL_FAILED
    mesh.agents["node-a"].runtime.access_log.flush()
    assert "unrecognized name" in mesh.lines[-1]


LATE = """
---
apiVersion: meshless.dev/v1
kind: Meshlet
metadata: {namespace: shop, name: late}
spec: {server: {selector: {app: late}, services: [{name: http}]}}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: late-0, uid: late-0-uid, labels: {meshless/meshlet: late, app: late}}
spec: {nodeName: node-b}
"""


async def test_a_pod_added_to_a_running_agent_can_be_dialled_before_its_leaf_is_there(
    make_mesh: MakeMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    mesh = await make_mesh(cart_on="node-b")
    agent, gate = mesh.agents["node-b"], asyncio.Event()
    issue = agent.leaves._issuer.issue

    async def issue_late(identity: Identity, request: str) -> Any:
        await gate.wait()
        return await issue(identity, request)

    monkeypatch.setattr(agent.leaves, "_issuer", SimpleNamespace(issue=issue_late))
    allowed = "{namespace: shop, meshlet: cart, service: http}"
    mesh.objects.set(mesh.text.replace(allowed, f"{allowed}, {{namespace: shop, meshlet: late, service: http}}") + LATE)
    late = ServiceId("http", "late", "shop")
    async with asyncio.timeout(20):
        while "late-0-uid" not in agent.runtime.pods:
            await asyncio.sleep(0.005)
        while any(one.runtime.table.route(late) is None for one in mesh.agents.values()):
            await asyncio.sleep(0.005)
        await mesh.serve(_echo, "late-0")
        client = await mesh.open(request=b"\x01\x0ehttp.late.shop")
        waiting = asyncio.create_task(mesh.verdict(client))
        while not agent.inbound.authenticating and not waiting.done():
            await asyncio.sleep(0)
        gate.set()
        assert await waiting is ReplyCode.OK
    client.close()


def test_an_address_that_cannot_be_listened_on_says_what_to_do() -> None:
    another = "another process listens there: stop it, or choose another port"
    with listen_for_tunnels("127.0.0.1:0") as taken, pytest.raises(ConfigError, match=another):
        listen_for_tunnels(f"127.0.0.1:{taken.getsockname()[1]}")
    with pytest.raises(ConfigError, match="no network interface of this machine has that address"):
        listen_for_tunnels("192.0.2.1:0")
