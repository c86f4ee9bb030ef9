"""What a lease promises: it is the connection's life for the client, and the agent's last word on it."""

from __future__ import annotations

import asyncio
import logging
import os
import select
import socket
from collections.abc import Callable, Iterator

import attrs
import pytest
from meshless_handshake_v2 import ClientLease, Notice, ServerHandshake, encode_request

from meshless_core.agent.lease import Lease
from meshless_core.hookspecs import HandshakeRequest, ReplyDetails
from meshless_core.relay import Reactor, RelayResult
from meshless_core.types import ReplyCode, ServiceId

ID = bytes(range(16))


@attrs.define(eq=False)
class Scene:
    """A lease and everything around it; `client` and `handed` are what the client holds, `server` is the far end."""

    reactor: Reactor
    lease: Lease
    client: socket.socket
    handed: socket.socket
    server: socket.socket
    agents: tuple[socket.socket, socket.socket]
    over: asyncio.Future[RelayResult]
    ignored: list[bool]

    async def result(self) -> RelayResult:
        async with asyncio.timeout(20):
            return await self.over

    async def read(self, end: socket.socket, size: int = 65536) -> bytes:
        async with asyncio.timeout(20):
            return await asyncio.get_running_loop().sock_recv(end, size)

    async def notices(self) -> list[Notice]:
        return ClientLease().receive_data(await self.read(self.client))


def leased() -> ServerHandshake:
    handshake = ServerHandshake()
    handshake.receive_data(encode_request(HandshakeRequest(ServiceId("http", "cart", "shop"), accepts_descriptor=True)))
    handshake.reply(ReplyCode.OK, "", ReplyDetails(connection_id=ID, descriptor_follows=True))
    return handshake


@pytest.fixture
async def make() -> Iterator[Callable[..., Scene]]:  # type: ignore[misc] # pytest awaits the fixture itself
    scenes: list[Scene] = []
    reactor = Reactor(asyncio.get_running_loop())

    def scene(patience: float = 30.0) -> Scene:
        client, agents_client = socket.socketpair()
        agents_service, server = socket.socketpair()
        for end in (client, agents_client, agents_service, server):
            end.setblocking(False)
        handed = agents_service.dup()
        over: asyncio.Future[RelayResult] = asyncio.get_running_loop().create_future()
        ignored: list[bool] = []
        lease = Lease(
            reactor,
            ID,
            agents_client,
            agents_service,
            leased(),
            on_close=over.set_result,
            on_ignored=lambda: ignored.append(True),
            patience=patience,
        )
        made = Scene(reactor, lease, client, handed, server, (agents_client, agents_service), over, ignored)
        scenes.append(made)
        return made

    yield scene
    for made in scenes:
        made.lease.abort("the test is over")
        made.lease.let_go()
        for end in (made.client, made.handed, made.server):
            end.close()
        assert [end.fileno() for end in made.agents] == [-1, -1], "the lease has closed what it owned"
    assert len(reactor) == 0
    reactor.close()


async def test_closing_the_lease_ends_the_connection_also_for_who_keeps_the_socket(make: Callable[..., Scene]) -> None:
    scene = make()
    scene.handed.send(b"last words")
    scene.client.close()
    assert await scene.result() == RelayResult("closed", "", "client", 0, 0)
    assert await scene.read(scene.server) == b"last words"
    assert await scene.read(scene.server) == b""
    with pytest.raises(BrokenPipeError):
        scene.handed.send(b"more")


async def test_shutting_down_the_leases_sending_half_counts_as_closing_it(make: Callable[..., Scene]) -> None:
    scene = make()
    scene.client.shutdown(socket.SHUT_WR)
    assert (await scene.result()).ended_by == "client"
    assert await scene.read(scene.client) == b""


async def test_a_client_that_closes_its_socket_first_and_then_the_lease_is_an_ordinary_end(make: Callable[..., Scene]) -> None:
    scene = make()
    scene.handed.close()
    scene.client.close()
    assert await scene.result() == RelayResult("closed", "", "client", 0, 0)
    assert await scene.read(scene.server) == b""


async def test_a_client_that_leaves_bytes_unread_resets_the_service_as_it_would_without_an_agent(
    make: Callable[..., Scene],
) -> None:
    scene = make()
    scene.server.send(b"never read")
    scene.handed.close()
    scene.client.close()
    await scene.result()
    with pytest.raises(ConnectionResetError):
        await scene.read(scene.server)


async def test_a_service_that_closes_ends_it_and_the_client_still_reads_everything(make: Callable[..., Scene]) -> None:
    scene = make()
    scene.server.send(b"goodbye")
    scene.server.close()
    assert await scene.result() == RelayResult("closed", "", "service", 0, 0)
    assert await scene.read(scene.client) == b"", "the lease ends without a notice: nothing was revoked"
    assert await scene.read(scene.handed) == b"goodbye"
    assert await scene.read(scene.handed) == b""


async def test_half_closes_are_the_clients_and_the_services_own(make: Callable[..., Scene]) -> None:
    scene = make()
    scene.handed.send(b"question")
    scene.handed.shutdown(socket.SHUT_WR)
    assert await scene.read(scene.server) == b"question"
    assert await scene.read(scene.server) == b""
    assert not scene.lease.closed
    scene.server.send(b"answer")
    scene.server.shutdown(socket.SHUT_WR)  # now both directions have ended
    assert (await scene.result()).outcome == "closed"
    assert await scene.read(scene.handed) == b"answer"
    assert await scene.read(scene.handed) == b""


async def test_a_client_that_stops_when_it_is_told_to_is_not_reported(make: Callable[..., Scene]) -> None:
    scene = make()
    scene.lease.abort("no longer allowed by p: nobody allows web")
    assert scene.lease.revoked
    assert not scene.lease.closed, "it has a moment to tell its application"
    assert await scene.notices() == [Notice("revoked", "no longer allowed by p: nobody allows web")]
    scene.handed.shutdown(socket.SHUT_RDWR)
    assert await scene.result() == RelayResult("aborted", "no longer allowed by p: nobody allows web", "agent", 0, 0)
    assert scene.ignored == []


async def test_a_client_that_only_closes_its_lease_when_it_is_told_to_stop_is_cut(make: Callable[..., Scene]) -> None:
    scene = make()
    scene.lease.abort("no")
    scene.client.close()
    assert (await scene.result()).outcome == "aborted"
    assert await scene.read(scene.server) == b""
    assert scene.ignored == []


async def test_a_client_that_ignores_the_notice_is_cut_logged_and_reported(
    make: Callable[..., Scene], caplog: pytest.LogCaptureFixture
) -> None:
    scene = make(patience=0.05)
    scene.lease.abort("no")
    scene.lease.abort("no again")
    result = await scene.result()
    assert (result.outcome, result.reason, result.ended_by) == ("aborted", "no; the client ignored it", "agent")
    assert scene.ignored == [True]
    (record,) = [one for one in caplog.records if one.levelno == logging.ERROR]
    assert ID.hex() in record.message
    assert "handOff: false" in record.message
    with pytest.raises(BrokenPipeError):
        scene.handed.send(b"I go on")
    assert await scene.read(scene.server) == b""
    assert await scene.notices() == [Notice("revoked", "no")]


async def test_bytes_on_the_lease_end_it_and_the_client_is_told_why(make: Callable[..., Scene]) -> None:
    scene = make()
    scene.client.send(b"GET / HTTP/1.1\r\n")
    result = await scene.result()
    assert (result.outcome, result.ended_by) == ("error", "client")
    (notice,) = await scene.notices()
    assert notice.kind == "revoked"
    assert "lease" in notice.text
    assert await scene.read(scene.server) == b""


async def test_bytes_instead_of_stopping_end_the_patience(make: Callable[..., Scene]) -> None:
    scene = make()
    scene.lease.abort("no")
    scene.client.send(b"please")
    assert (await scene.result()).outcome == "aborted"


async def test_drain_is_said_and_the_connection_goes_on_when_the_agent_leaves(make: Callable[..., Scene]) -> None:
    scene = make()
    scene.lease.drain("the agent is shutting down")
    scene.lease.let_go()
    assert await scene.notices() == [Notice("drain", "the agent is shutting down")]
    assert await scene.read(scene.client) == b"", "the agent is gone"
    result = await scene.result()
    assert (result.outcome, result.ended_by) == ("closed", "agent")
    scene.handed.send(b"still")
    assert await scene.read(scene.server) == b"still"
    scene.server.send(b"here")
    assert await scene.read(scene.handed) == b"here"


async def test_an_agent_that_leaves_does_not_leave_a_revoked_connection_behind(make: Callable[..., Scene]) -> None:
    scene = make()
    scene.lease.abort("no")
    scene.lease.let_go()
    assert (await scene.result()).outcome == "aborted"
    assert await scene.read(scene.server) == b""


async def test_a_client_that_reads_no_notices_costs_no_memory_and_is_cut_all_the_same(
    make: Callable[..., Scene], caplog: pytest.LogCaptureFixture
) -> None:
    scene = make(patience=0.05)
    while not caplog.records:
        scene.lease.drain("x" * 256)
    assert "does not read the notices" in caplog.text
    assert not scene.lease.closed
    scene.lease.abort("no")
    assert (await scene.result()).outcome == "aborted"
    assert await scene.read(scene.server) == b""


async def test_after_the_end_every_call_is_harmless(make: Callable[..., Scene]) -> None:
    scene = make()
    scene.client.close()
    await scene.result()
    scene.lease.abort("late")
    scene.lease.drain("late")
    scene.lease.let_go()
    assert (scene.lease.closed, scene.lease.revoked) == (True, False)
    assert (scene.lease.bytes_to_service, scene.lease.bytes_to_client) == (0, 0)


async def test_a_lease_the_kernel_does_not_watch_leaves_nothing_open(make: Callable[..., Scene]) -> None:
    scene = make()
    client, agents_client = socket.socketpair()
    agents_service, server = socket.socketpair()
    watched = os.dup(agents_service.fileno())
    scene.reactor.add(agents_service.fileno(), select.EPOLLIN, lambda _events: None)  # a second time is refused
    with pytest.raises(FileExistsError):
        Lease(
            scene.reactor,
            ID,
            agents_client,
            agents_service,
            leased(),
            on_close=lambda _result: pytest.fail("it never began"),
            on_ignored=lambda: None,
        )
    assert (agents_client.fileno(), agents_service.fileno()) == (-1, -1)
    with client, server, socket.socket(fileno=watched):
        assert server.recv(1) == b"", "cut for everybody"
        assert client.recv(1) == b""


async def test_a_handshake_that_cannot_say_a_notice_revokes_all_the_same_and_stops_nobody(
    make: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_self: ServerHandshake, kind: str, text: str = "") -> bytes:
        raise RuntimeError(kind + text)

    monkeypatch.setattr(ServerHandshake, "notice", broken)
    scene = make(patience=0.01)
    scene.lease.drain("finish")
    scene.lease.abort("no longer allowed")
    assert (await scene.result()).outcome == "aborted"
    assert caplog.text.count("failed to say a") == 2
