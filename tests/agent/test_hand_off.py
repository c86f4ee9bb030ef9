"""Hand-off through a real agent: when it is used, that nothing of the agent is in the way then, and that no slot is lost."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import os
import resource
import socket
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from meshless_handshake_v2 import ClientHandshake, Established, Notice, Refused

from meshless_core.agent import client_connection
from meshless_core.agent.hand_off import NO_HAND_OFF_SECONDS
from meshless_core.agent.lease import Lease
from meshless_core.config import Seconds
from meshless_core.hookspecs import HandshakeRequest
from meshless_core.types import AuthorizationRequest, Decision, ReplyCode, Verdict
from tests.agent.handing_over import HTTP, OFFER, HandedOver, dial, echo, hand_over, receive, until, verdict
from tests.agent.test_garbage import CONNECTIONS, collecting, type_name

MakeMesh = Callable[..., Awaitable[Any]]
Shop = Callable[[str], str]
ALLOWED = "spec: {client: [{namespace: shop, meshlet: cart, service: http}]}"
OTHER = f"---\napiVersion: meshless.dev/v1\nkind: Meshlet\nmetadata: {{namespace: shop, name: other}}\n{ALLOWED}\n"


def agent_of(mesh: Any) -> Any:
    return mesh.agents["node-a"]


def rows(mesh: Any) -> list[dict[str, Any]]:
    return [one.to_dict(0.0, 0.0) for one in agent_of(mesh).runtime.connections]


def no_slot_is_taken(mesh: Any) -> bool:
    runtime = agent_of(mesh).runtime
    return (len(runtime.slots), len(runtime.connections), runtime.establishing, runtime.handshaking) == (0, 0, 0, 0)


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


class Gate:
    """An authorizer that says yes when it is opened."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.open = threading.Event()

    async def authorize(self, request: AuthorizationRequest) -> Decision:
        self.asked.set()
        while not self.open.is_set():
            await asyncio.sleep(0.002)
        return Decision(Verdict.ALLOW, "gate", "open")


# --- the agent is out of the path --------------------------------------------------------------------------------------


async def test_the_bytes_do_not_pass_through_the_agent(make_mesh: MakeMesh) -> None:
    mesh = await make_mesh()
    await mesh.serve(echo)
    connection = await hand_over(mesh)
    for _ in range(20):
        await connection.say(b"x" * 50_000)
        assert len(await connection.hear(50_000)) == 50_000
    (row,) = rows(mesh)
    assert row["id"] == (connection.answer.connection_id or b"").hex()
    assert (row["transport"], row["reporter"]) == ("handoff", "both")
    assert (row["bytes_to_service"], row["bytes_to_client"], row["revoked"]) == (0, 0, False)
    connection.close()
    await until(lambda: no_slot_is_taken(mesh))
    agent_of(mesh).runtime.access_log.flush()
    assert '"handoff"' in mesh.lines[-1]


async def test_half_close_is_between_the_client_and_the_service(make_mesh: MakeMesh) -> None:
    mesh = await make_mesh()

    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = await reader.read()
        writer.write(b"%d" % len(data))
        writer.close()

    await mesh.serve(count)
    connection = await hand_over(mesh)
    await connection.say(b"x" * 300_000)
    connection.service.shutdown(socket.SHUT_WR)
    assert await connection.hear(100) == b"300000"
    await until(lambda: no_slot_is_taken(mesh))
    assert await connection.next_notices() == [], "the end of a connection is no revocation"
    connection.close()


async def test_a_service_that_asks_is_told_who_connects_before_it_is_handed_over(make_mesh: MakeMesh, shop: Shop) -> None:
    mesh = await make_mesh(shop("node-a").replace("{name: http}", "{name: http, proxyProtocol: v2}"))
    await mesh.serve(echo)
    connection = await hand_over(mesh)
    await connection.say(b"hello")
    header = await connection.hear(16)
    assert header.startswith(b"\r\n\r\n\x00\r\nQUIT\n\x21\x00")
    fields = await connection.hear(int.from_bytes(header[14:16], "big"))
    assert b"spiffe://mesh.local/ns/shop/meshlet/web" in fields
    assert (connection.answer.connection_id or b"none") in fields
    assert await connection.hear(5) == b"hello"
    connection.close()


# --- when the agent stays in the path ----------------------------------------------------------------------------------


async def relayed(mesh: Any, behind: bytes = b"", **wishes: Any) -> None:
    """Dial, and insist on being relayed."""
    answer, client = await dial(mesh, behind=behind, **wishes)
    assert isinstance(answer, Established), answer
    assert not answer.descriptor_follows
    await asyncio.get_running_loop().sock_sendall(client, b"hello")
    assert await receive(client, len(behind) + 5) == behind + b"hello"
    (row,) = rows(mesh)
    assert row["transport"] in {"local", "tunnel"}
    assert row["bytes_to_client"] == len(behind) + 5
    client.close()


@pytest.mark.parametrize(
    "service", ["{name: http, handOff: false}", "{name: http, idleTimeout: 1h}"], ids=["switched-off", "idle-timeout"]
)
async def test_a_service_whose_bytes_must_be_seen_is_relayed(make_mesh: MakeMesh, shop: Shop, service: str) -> None:
    mesh = await make_mesh(shop("node-a").replace("{name: http}", service))
    await mesh.serve(echo)
    await relayed(mesh)


async def test_an_agent_with_hand_off_switched_off_relays(make_mesh: MakeMesh) -> None:
    mesh = await make_mesh(settings={"hand_off": False})
    await mesh.serve(echo)
    await relayed(mesh)


async def test_a_service_on_another_node_is_relayed(make_mesh: MakeMesh) -> None:
    mesh = await make_mesh(cart_on="node-b")
    await mesh.serve(echo)
    await relayed(mesh)


async def test_a_client_that_did_not_offer_is_relayed(make_mesh: MakeMesh) -> None:
    mesh = await make_mesh()
    await mesh.serve(echo)
    await relayed(mesh, accepts_descriptor=False)


async def test_bytes_right_behind_the_request_are_relayed(make_mesh: MakeMesh) -> None:
    mesh = await make_mesh()
    await mesh.serve(echo)
    await relayed(mesh, behind=b"early")


async def test_bytes_that_come_before_the_decision_are_relayed(make_mesh: MakeMesh) -> None:
    gate = Gate()
    mesh = await make_mesh(authorizers=[("gate", gate)])
    await mesh.serve(echo)
    handshake = ClientHandshake(HandshakeRequest(HTTP, accepts_descriptor=True))
    client = await mesh.open(request=handshake.request)
    await until(gate.asked.is_set)
    client.send(b"early")
    gate.open.set()
    answer = await verdict(handshake, client)
    assert isinstance(answer, Established)
    assert not answer.descriptor_follows
    assert await receive(client, 5) == b"early"
    client.close()


async def test_an_end_of_file_before_the_decision_is_relayed(make_mesh: MakeMesh) -> None:
    gate = Gate()
    mesh = await make_mesh(authorizers=[("gate", gate)])
    await mesh.serve(echo)
    handshake = ClientHandshake(HandshakeRequest(HTTP, accepts_descriptor=True))
    client = await mesh.open(request=handshake.request)
    await until(gate.asked.is_set)
    client.shutdown(socket.SHUT_WR)
    gate.open.set()
    answer = await verdict(handshake, client)
    assert isinstance(answer, Established)
    assert not answer.descriptor_follows
    assert await receive(client, 1) == b"", "the echo of nothing, and the end"
    client.close()
    await until(lambda: no_slot_is_taken(mesh))


# --- maxConn -----------------------------------------------------------------------------------------------------------


async def limited(make_mesh: MakeMesh, shop: Shop) -> tuple[Any, HandedOver]:
    mesh = await make_mesh(shop("node-a").replace("{name: http}", "{name: http, maxConn: 1}"))
    await mesh.serve(echo)
    connection = await hand_over(mesh)
    answer, client = await dial(mesh)
    assert isinstance(answer, Refused)
    assert answer.code == ReplyCode.CONNECTION_LIMIT
    client.close()
    return mesh, connection


async def test_a_handed_over_connection_counts_until_the_client_closes_it(make_mesh: MakeMesh, shop: Shop) -> None:
    mesh, connection = await limited(make_mesh, shop)
    connection.close()
    await until(lambda: no_slot_is_taken(mesh))
    (await hand_over(mesh)).close()


async def test_a_handed_over_connection_counts_until_the_service_closes_it(make_mesh: MakeMesh, shop: Shop) -> None:
    mesh, connection = await limited(make_mesh, shop)
    connection.service.shutdown(socket.SHUT_WR)  # the echo then closes, and the client keeps everything open
    await until(lambda: no_slot_is_taken(mesh))
    connection.close()


async def test_a_client_cannot_give_its_slot_back_and_keep_the_connection(make_mesh: MakeMesh, shop: Shop) -> None:
    mesh, connection = await limited(make_mesh, shop)
    connection.lease.close()
    await until(lambda: no_slot_is_taken(mesh))
    with pytest.raises(BrokenPipeError):
        connection.service.send(b"for free")
    connection.close()


# --- taken back, and agents that leave ---------------------------------------------------------------------------------


async def test_a_client_is_told_when_policy_takes_its_connection_back(make_mesh: MakeMesh, shop: Shop) -> None:
    mesh = await make_mesh()
    await mesh.serve(echo)
    connection = await hand_over(mesh)
    await mesh.apply(shop("node-a").replace(ALLOWED, "spec: {}"))
    (notice,) = await connection.next_notices()
    assert notice.kind == "revoked"
    assert "no longer allowed" in notice.text
    (row,) = rows(mesh)
    assert row["revoked"] is True
    connection.close()
    await until(lambda: no_slot_is_taken(mesh))
    assert "meshless_revocations_ignored_total{" not in agent_of(mesh).runtime.metrics.text().decode()


async def test_a_client_that_goes_on_all_the_same_is_cut_and_counted(make_mesh: MakeMesh, shop: Shop) -> None:
    mesh = await make_mesh()
    await mesh.serve(echo)
    connection = await hand_over(mesh)
    await mesh.apply(shop("node-a").replace(ALLOWED, "spec: {}"))
    await until(lambda: no_slot_is_taken(mesh), seconds=20)
    with pytest.raises(BrokenPipeError):
        connection.service.send(b"I go on")
    assert await connection.hear(1) == b""
    metrics = agent_of(mesh).runtime.metrics.text().decode()
    (line,) = [line for line in metrics.splitlines() if line.startswith("meshless_revocations_ignored_total{")]
    assert line.endswith(" 1.0")
    assert 'source_meshlet="web"' in line
    agent_of(mesh).runtime.access_log.flush()
    assert "the client ignored it" in mesh.lines[-1]
    connection.close()


async def test_an_unrelated_change_says_nothing_to_the_client(make_mesh: MakeMesh, shop: Shop) -> None:
    mesh = await make_mesh()
    await mesh.serve(echo)
    connection = await hand_over(mesh)
    await mesh.apply(shop("node-a") + OTHER)
    with pytest.raises(BlockingIOError):
        connection.lease.recv(1)
    connection.close()


@pytest.mark.parametrize("way", ["drain", "stop"])
async def test_a_connection_goes_on_when_its_agent_leaves(make_mesh: MakeMesh, way: str) -> None:
    mesh = await make_mesh(settings={"drain_timeout": Seconds(30.0)})
    await mesh.serve(echo)
    connection = await hand_over(mesh)
    async with asyncio.timeout(20):  # a drain does not wait for what does not pass through the agent
        await getattr(agent_of(mesh), way)()
    assert await connection.next_notices() == [Notice("drain", "the agent is shutting down")]
    assert await connection.next_notices() == [], "the end of the lease"
    await connection.say(b"after the agent")
    assert await connection.hear(15) == b"after the agent"
    assert no_slot_is_taken(mesh)
    connection.close()


async def test_the_next_agent_serves_while_an_older_connection_goes_on(make_mesh: MakeMesh) -> None:
    mesh = await make_mesh()
    await mesh.serve(echo)
    old = await hand_over(mesh)
    await agent_of(mesh).stop()
    await mesh.start_agent("node-a")
    await mesh.ready()
    new = await hand_over(mesh)
    for connection in (old, new):
        await connection.say(b"hello")
        assert await connection.hear(5) == b"hello"
    (row,) = rows(mesh)
    assert row["id"] == (new.answer.connection_id or b"").hex()
    for connection in (old, new):
        connection.close()


# --- clients that leave at every stage ---------------------------------------------------------------------------------


async def test_a_client_that_leaves_at_any_stage_leaves_no_slot_and_no_descriptor(make_mesh: MakeMesh) -> None:
    mesh = await make_mesh()
    await mesh.serve(echo)
    (await hand_over(mesh)).close()  # what is opened once is open now
    await until(lambda: no_slot_is_taken(mesh))
    before = open_descriptors()
    runtime = agent_of(mesh).runtime

    (await mesh.open(request=b"")).close()
    (await mesh.open(request=OFFER[:7])).close()
    (await mesh.open(request=OFFER)).close()  # perhaps before the agent has read it, perhaps not
    unread = await mesh.open(request=OFFER)
    await until(lambda: len(runtime.connections) > 0)
    unread.close()  # reply and descriptor are in its buffer
    _, read = await dial(mesh)
    read.close()  # the descriptor is
    (await hand_over(mesh)).close()

    await until(lambda: no_slot_is_taken(mesh))
    await until(lambda: open_descriptors() == before)


async def test_a_client_that_leaves_while_it_is_decided_about_leaves_nothing(make_mesh: MakeMesh) -> None:
    gate = Gate()
    mesh = await make_mesh(authorizers=[("gate", gate)])
    await mesh.serve(echo)
    before = open_descriptors()
    client = await mesh.open(request=OFFER)
    await until(gate.asked.is_set)
    assert agent_of(mesh).runtime.establishing == 1
    client.close()
    await until(lambda: no_slot_is_taken(mesh))
    await until(lambda: open_descriptors() == before)
    gate.open.set()


async def test_a_client_that_leaves_while_the_backlog_is_full_leaves_nothing(make_mesh: MakeMesh) -> None:
    mesh = await make_mesh(settings={"endpoint_timeout": Seconds(30.0), "connect_timeout": Seconds(30.0)})
    with socket.socket(socket.AF_UNIX) as listener, contextlib.ExitStack() as stack:
        listener.bind(str(mesh.server_path()))
        listener.listen(0)
        filler = stack.enter_context(socket.socket(socket.AF_UNIX))
        filler.connect(str(mesh.server_path()))
        before = open_descriptors()
        client = await mesh.open(request=OFFER)
        await until(lambda: agent_of(mesh).runtime.establishing == 1)
        client.close()
        await until(lambda: no_slot_is_taken(mesh))
        await until(lambda: open_descriptors() <= before + 1)  # the server's socket file, kept for the next connect


@pytest.mark.parametrize("ended_by", ["client", "service"])
async def test_a_handed_over_connection_that_ended_leaves_no_cycle(make_mesh: MakeMesh, ended_by: str) -> None:
    mesh = await make_mesh()
    await mesh.serve(echo)

    async def connections() -> None:
        handed = [await hand_over(mesh) for _ in range(CONNECTIONS)]
        for one in handed:
            if ended_by == "service":
                one.service.shutdown(socket.SHUT_WR)
                assert await one.hear(1) == b""
            one.close()
        await until(lambda: no_slot_is_taken(mesh), seconds=10)
        agent_of(mesh).runtime.access_log.flush()
        await asyncio.sleep(0)

    await connections()
    garbage: list[object] = []
    with collecting(garbage):
        await connections()
    assert not Counter(kind for kind in map(type_name, garbage) if kind.startswith("meshless_core"))


# --- what the kernel refuses -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def without_privileges(*capabilities: int) -> Iterator[None]:
    """Drop capabilities of this thread for a while, if it has them."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    held = (ctypes.c_uint32 * 6)()
    assert libc.capget(header, held) == 0
    fewer = (ctypes.c_uint32 * 6)(*held)
    for number in capabilities:
        fewer[number // 32 * 3] &= ~(1 << number % 32)
    assert libc.capset(header, fewer) == 0
    try:
        yield
    finally:
        assert libc.capset(header, held) == 0


@contextlib.contextmanager
def too_many_descriptors_in_flight() -> Iterator[None]:
    """Somebody lets descriptors lie unread, more than one user may have under way."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lying, never_read = socket.socketpair()
    sys_admin, sys_resource = 21, 24
    with lying, never_read, without_privileges(sys_admin, sys_resource):
        resource.setrlimit(resource.RLIMIT_NOFILE, (open_descriptors() + 60, hard))
        try:
            with contextlib.suppress(OSError):
                for _ in range(100):
                    socket.send_fds(lying, [b"x"], [lying.fileno()] * 200)
            with pytest.raises(OSError, match="references"):
                socket.send_fds(lying, [b"x"], [lying.fileno()])
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    gc.collect()


async def test_a_kernel_that_carries_no_descriptor_costs_one_connection_and_the_next_are_relayed(
    make_mesh: MakeMesh, caplog: pytest.LogCaptureFixture
) -> None:
    mesh = await make_mesh()
    await mesh.serve(echo)
    with too_many_descriptors_in_flight():
        answer, client = await dial(mesh)
        assert isinstance(answer, Established)
        assert await receive(client, 1) == b"", "closed before the descriptor: the client tries again"
        client.close()
        await until(lambda: no_slot_is_taken(mesh))
        await relayed(mesh)
        await until(lambda: no_slot_is_taken(mesh))
    assert f"for {NO_HAND_OFF_SECONDS:g} s all connections are relayed" in caplog.text
    agent_of(mesh).runtime.no_hand_off_until = 0.0  # that time has passed
    (await hand_over(mesh)).close()


async def test_a_lease_that_cannot_be_watched_leaves_no_slot(make_mesh: MakeMesh, monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = await make_mesh()
    await mesh.serve(echo)

    def unwatchable(reactor: Any, *arguments: Any, **options: Any) -> Any:
        reactor.add(arguments[1].fileno(), 0, lambda _events: None)  # a second time is refused by the kernel
        return real(reactor, *arguments, **options)

    real = Lease
    monkeypatch.setattr(client_connection, "Lease", unwatchable)
    answer, client = await dial(mesh)
    assert isinstance(answer, Established)
    await until(lambda: no_slot_is_taken(mesh))
    client.close()
