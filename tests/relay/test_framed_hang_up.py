"""An end that goes away as a whole, behind a tunnel: the other sees at once what the kernel would have shown it without us.

A Unix socket tells that apart from a half-close (a hang-up); what it says is carried by GONE. TCP cannot, so there it is learnt
by writing, as without us.
"""

import asyncio
import select
import socket

import pytest

from meshless_core.relay import framed
from meshless_core.relay.framed import FramedSession
from meshless_core.relay.framed_relay import FramedRelay
from meshless_core.relay.reactor import Reactor
from meshless_core.tunnel import OpenReply, OpenRequest
from meshless_core.types import ReplyCode
from tests.relay.framed_sessions import REQUEST, Ends, Sessions, soon, wait

SIDES = ["client", "service"]


def sort(side, client, service):
    """(the end that goes away, the one that stays)"""
    return (client, service) if side == "client" else (service, client)


async def fill(end):
    """Write until nobody takes more; returns what was taken."""
    taken, idle = 0, 0
    while idle < 20:
        try:
            taken += end.end.send(b"x" * 65536)
            idle = 0
        except BlockingIOError:
            idle += 1
            await asyncio.sleep(0.005)
    return taken


@pytest.mark.parametrize("side", SIDES)
async def test_the_other_end_reads_everything_then_the_end_and_cannot_write(sessions, side):
    client, service = await sessions.connect()
    leaving, staying = sort(side, client, service)
    await leaving.send(b"last words" * 10_000)
    leaving.end.close()
    assert await staying.receive() == b"last words" * 10_000
    for end in (leaving, staying):
        result, reusable = await end.over()
        assert (result.outcome, result.ended_by, reusable) == ("closed", side, True)
    with pytest.raises(BrokenPipeError):
        staying.end.send(b"nobody will read this")


@pytest.mark.parametrize("side", SIDES)
async def test_the_session_carries_the_next_connection(sessions, side):
    for number in range(3):
        client, service = await sessions.connect()
        leaving, staying = sort(side, client, service)
        leaving.end.close()
        assert await staying.receive() == b""
        assert [(await end.over())[1] for end in (leaving, staying)] == [True, True], number
    assert (sessions.client.state, sessions.server.state) == ("idle", "idle")


@pytest.mark.parametrize("side", SIDES)
async def test_one_that_half_closed_before_it_went_away_is_noticed_too(sessions, side):
    client, service = await sessions.connect()
    leaving, staying = sort(side, client, service)
    leaving.finish()
    assert await staying.receive() == b""
    await staying.send(b"still read")
    assert await leaving.receive(10) == b"still read"
    leaving.end.close()
    for end in (leaving, staying):
        result, reusable = await end.over()
        assert (result.outcome, result.ended_by, reusable) == ("closed", side, True)


@pytest.mark.parametrize("side", SIDES)
async def test_one_that_half_closed_and_goes_away_over_unread_bytes_resets(sessions, side):
    client, service = await sessions.connect()
    leaving, staying = sort(side, client, service)
    leaving.finish()
    assert await staying.receive() == b""
    await staying.send(b"never read")
    await asyncio.get_running_loop().run_in_executor(None, select.select, [leaving.end], [], [], 10)
    leaving.end.close()
    for end in (leaving, staying):
        result, reusable = await end.over()
        assert (result.outcome, result.ended_by, reusable) == ("reset", side, False)


@pytest.mark.parametrize("side", SIDES)
async def test_a_half_close_alone_is_no_hang_up(sessions, side):
    client, service = await sessions.connect()
    first, second = sort(side, client, service)
    first.finish()
    assert await second.receive() == b""
    for number in range(3):
        await second.send(b"%d" % number)
        assert await first.receive(1) == b"%d" % number
    assert not first.relay.closed
    assert not second.relay.closed
    second.finish()
    assert await first.receive() == b""
    assert [(await end.over())[1] for end in (first, second)] == [True, True]


@pytest.mark.parametrize("side", SIDES)
async def test_bytes_that_meet_the_hang_up_on_their_way_make_it_a_reset(plaintext, side):
    client, service = await plaintext.connect()
    leaving, staying = sort(side, client, service)
    leaving.end.close()
    staying.end.send(b"too late")  # before the loop runs: nobody knows yet
    results = [await end.over() for end in (leaving, staying)]
    assert {(result.outcome, result.ended_by, reusable) for result, reusable in results} == {("reset", side, False)}


@pytest.mark.parametrize("side", SIDES)
async def test_bytes_written_while_the_hang_up_is_handed_on_end_it_by_the_one_who_left(plaintext, side, monkeypatch):
    client, service = await plaintext.connect()
    leaving, staying = sort(side, client, service)
    follow = FramedRelay._follow_peer

    def write_first(relay):
        if relay._peer_gone:
            staying.end.send(b"too late")
        follow(relay)

    monkeypatch.setattr(FramedRelay, "_follow_peer", write_first)
    leaving.end.close()
    results = [await end.over() for end in (leaving, staying)]
    assert {(result.outcome, result.ended_by, reusable) for result, reusable in results} == {("reset", side, False)}


class Relayed(Ends):
    """An end that also says when the application behind it hung up."""

    def __init__(self, sessions, session, kind="unix"):
        self.end, self.near = sessions.pair(kind)
        self.end.setblocking(False)
        self.result, self.hung_up = soon(), soon()
        self.session = session
        self.relay = session.relay(
            self.near, idle_timeout=None, on_close=self.closed, on_hang_up=lambda: self.hung_up.set_result(None)
        )

    def closed(self, result, reusable):
        self.result.set_result((result, reusable))
        if not reusable:
            self.session.close()  # as the agent does


async def connect(sessions, kind="unix"):
    replied = soon()
    sessions.client.open(REQUEST, replied.set_result)
    await wait(sessions.requests.get())
    sessions.server.reply(OpenReply(ReplyCode.OK))
    service = Relayed(sessions, sessions.server, kind)
    await wait(replied)
    return Relayed(sessions, sessions.client, kind), service


async def test_the_agent_learns_of_a_hang_up_although_the_client_reads_nothing(plaintext):
    """What the service sent is kept for a client that is slow; its slot is not."""
    client, service = await connect(plaintext)
    sent = await fill(service)
    service.end.close()
    await wait(service.hung_up)
    assert not service.relay.closed
    assert len(await client.receive()) == sent
    for end in (client, service):
        assert (await end.over())[0].outcome == "closed"


async def test_the_services_socket_is_closed_at_once_whatever_the_other_agent_does(reactor, pair, streams):
    near, far = await streams()
    sessions = Sessions(reactor, pair, (near, far))
    client, service = await connect(sessions)
    sessions.client.set_reading(False)  # the other agent hangs
    service.end.close()
    await wait(service.hung_up)
    assert service.near.fileno() == -1
    sessions.client.set_reading(True)
    assert (await service.over())[1]
    assert (await client.over())[1]
    sessions.close()


async def test_an_agent_that_skips_gone_ends_the_connection_when_its_client_does(plaintext, monkeypatch):
    """An older one: the frame may be ignored."""
    monkeypatch.setattr("meshless_core.relay.framed_relay.FramedRelay._follow_peer", lambda relay: None)
    client, service = await connect(plaintext)
    service.end.close()
    assert await client.receive() == b""
    await wait(service.hung_up)
    client.finish()
    for end in (client, service):
        result, reusable = await end.over()
        assert (result.outcome, reusable) == ("closed", True)


async def test_the_tail_before_a_reset_outlives_the_session_that_its_agent_drops(reactor, pair, streams):
    """A session that is not to be used again is closed; not over what is on its way, nor over what nobody reads any more."""
    near, far = await streams()
    far.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    near.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
    sessions = Sessions(reactor, pair, (near, far))
    client, service = await connect(sessions)
    await client.send(b"never read")
    await asyncio.get_running_loop().run_in_executor(None, select.select, [service.end], [], [], 10)
    sessions.server.set_reading(False)
    await client.send(b"?" * 10_000)  # lies unread: closing over it would be a TCP reset, and take the tail back
    sessions.client.set_reading(False)
    tail = b"last words" * 20_000
    await service.send(tail)
    async with asyncio.timeout(10):
        while service.relay.bytes_to_client < len(tail) or client.relay.bytes_to_service < 10_010:
            await asyncio.sleep(0.005)
    service.end.close()
    result, reusable = await service.over()
    assert (result.outcome, reusable) == ("reset", False)
    sessions.client.set_reading(True)
    assert await client.receive() == tail
    assert (await client.over())[0].outcome == "reset"
    async with asyncio.timeout(10):
        while not far.closed:
            await asyncio.sleep(0.005)
    sessions.close()


async def test_a_session_that_lingers_is_closed_when_its_time_is_over(reactor, pair, streams, monkeypatch):
    monkeypatch.setattr(framed, "LINGER", 0.01)
    near, far = await streams()
    server = FramedSession(reactor, far, role="server")
    requests: asyncio.Queue[OpenRequest] = asyncio.Queue()
    server.serve(requests.put_nowait)
    client = FramedSession(reactor, near, role="client")
    sessions = Sessions.__new__(Sessions)
    sessions.pair, sessions.client, sessions.server, sessions.requests = pair, client, server, requests
    ends, service = await sessions.connect(kind="tcp")
    client.set_reading(False)
    service.end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    service.end.close()
    await service.over()
    async with asyncio.timeout(10):
        while not far.closed:
            await asyncio.sleep(0.005)
    client.set_reading(True)
    assert (await ends.over())[0].outcome == "reset"
    sessions.close()


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("kind", ["unix", "tcp"])
@pytest.mark.parametrize("apart", [0.0, 0.05], ids=["at_once", "one_after_the_other"])
async def test_both_ends_go_away_over_bytes_that_neither_reads(plaintext, apart, kind, side, monkeypatch):
    monkeypatch.setattr(framed, "LINGER", 0.2)
    client, service = await plaintext.connect(kind=kind)
    first, second = sort(side, client, service)
    await fill(client)
    await fill(service)
    first.end.close()
    await asyncio.sleep(apart)
    second.end.close()
    for end in (first, second):
        result, reusable = await end.over()
        assert (result.outcome, reusable) == ("reset", False)
    async with asyncio.timeout(10):
        while not (plaintext.client.stream.closed and plaintext.server.stream.closed):
            await asyncio.sleep(0.005)


async def test_a_session_that_lingers_is_closed_with_the_reactor(pair, streams):
    reactor = Reactor(asyncio.get_running_loop())
    near, far = await streams()
    sessions = Sessions(reactor, pair, (near, far))
    client, service = await sessions.connect(kind="tcp")
    sessions.client.set_reading(False)
    service.end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    service.end.close()
    await service.over()
    sessions.server.close()
    assert not far.closed, "its last frame may still be on its way"
    reactor.close()
    assert far.closed
    assert not reactor.orphans
    sessions.client.close()
    await client.over()
