"""The framed session: one connection after another, and whoever waits learns of a loss, exactly once."""

import asyncio
import contextlib
import os
import resource
import socket

import pytest

from meshless_core.errors import LocalProtocolError, RemoteProtocolError, TransportError
from meshless_core.relay.framed import FRAMED_PENDING_BOUND, FramedSession
from meshless_core.tunnel import OpenReply, OpenRequest, ResetCode, TunnelSession
from meshless_core.tunnel.frames import encode_open, encode_reply, encode_reset
from meshless_core.types import PodRef, ReplyCode, ServiceId

REQUEST = OpenRequest(
    connection_id=bytes(range(16)),
    service=ServiceId("http", "cart", "shop"),
    pod=PodRef("shop", "cart-1"),
    pod_uid="uid-1",
    version="v1",
    source_pod=PodRef("shop", "web-1"),
    deadline_ms=5000,
)


def soon():
    return asyncio.get_running_loop().create_future()


async def wait(future):
    return await asyncio.wait_for(future, 10)


class Sessions:
    """Two sessions that belong together; `end` opens a connection through both and gives the ends to the test."""

    def __init__(self, reactor, pair, streams):
        self.pair = pair
        self.client_lost, self.server_lost = [], []
        self.client = FramedSession(reactor, streams[0], role="client", on_lost=self.client_lost.append)
        self.server = FramedSession(reactor, streams[1], role="server", on_lost=self.server_lost.append)
        self.requests = asyncio.Queue()
        self.server.serve(self.requests.put_nowait)

    async def connect(self, *, kind="unix", early=b"", idle_timeout=None):
        replied = soon()
        self.client.open(REQUEST, replied.set_result)
        assert await wait(self.requests.get()) == REQUEST
        assert (self.client.state, self.server.state) == ("opening", "opening")
        self.server.reply(OpenReply(ReplyCode.OK))
        ends = Ends(self, kind, "service", self.server, b"", idle_timeout)
        assert await wait(replied) == OpenReply(ReplyCode.OK)
        return Ends(self, kind, "client", self.client, early, idle_timeout), ends

    def close(self):
        self.client.close()
        self.server.close()


class Ends:
    """One agent's side of a connection: the application's end, the relay, its result."""

    def __init__(self, sessions, kind, side, session, early, idle_timeout):
        self.side = side
        self.end, near = sessions.pair(kind)
        self.end.setblocking(False)
        self.result = soon()
        self.near = near
        self.relay = session.relay(
            near, early=early, idle_timeout=idle_timeout, on_close=lambda *result: self.result.set_result(result)
        )

    async def send(self, data):
        await asyncio.wait_for(asyncio.get_running_loop().sock_sendall(self.end, data), 20)

    async def receive(self, size=None):
        loop, parts, left = asyncio.get_running_loop(), [], size
        while left is None or left:
            part = await asyncio.wait_for(loop.sock_recv(self.end, min(left or 1 << 18, 1 << 18)), 20)
            if not part:
                assert left is None, f"end-of-file with {left} bytes missing"
                break
            parts.append(part)
            if left is not None:
                left -= len(part)
        return b"".join(parts)

    def finish(self):
        self.end.shutdown(socket.SHUT_WR)

    async def over(self):
        result, reusable = await wait(self.result)
        assert self.relay.closed
        assert self.near.fileno() == -1
        return result, reusable


VARIANTS = {
    "plaintext": {},
    "tls": {"kind": "tls"},
    "one byte at a time": {"taken": 1},
    "lazy": {"lazy": True},
    "lazy, 7 bytes at a time": {"lazy": True, "taken": 7},
}


@pytest.fixture(params=VARIANTS)
async def sessions(request, reactor, pair, streams):
    sessions = Sessions(reactor, pair, await streams(**VARIANTS[request.param]))
    yield sessions
    sessions.close()


@pytest.fixture
async def plaintext(reactor, pair, streams):
    sessions = Sessions(reactor, pair, await streams())
    yield sessions
    sessions.close()


async def end_cleanly(client, service):
    client.finish()
    service.finish()
    assert await client.receive() == await service.receive() == b""
    return await client.over(), await service.over()


async def test_a_connection_carries_bytes_both_ways_and_the_session_is_used_again(sessions):
    for number in range(5):
        client, service = await sessions.connect()
        question, answer = b"question %d" % number, b"the answer %d" % number
        await client.send(question)
        assert await service.receive(len(question)) == question
        await service.send(answer)
        assert await client.receive(len(answer)) == answer
        for result, reusable in await end_cleanly(client, service):
            assert (result.outcome, result.reason, reusable) == ("closed", "", True)
            assert (result.bytes_to_service, result.bytes_to_client) == (len(question), len(answer))
        assert (sessions.client.state, sessions.server.state) == ("idle", "idle")
    assert sessions.client_lost == sessions.server_lost == []


@pytest.mark.parametrize("first", ["client", "service"])
async def test_a_half_close_leaves_the_other_direction_intact(sessions, first):
    client, service = await sessions.connect()
    quick, late = (client, service) if first == "client" else (service, client)
    await quick.send(b"short")
    quick.finish()
    assert await late.receive() == b"short"
    await late.send(b"long" * 1000)
    assert await quick.receive(4000) == b"long" * 1000
    late.finish()
    assert await quick.receive() == b""
    for end in (client, service):
        result, reusable = await end.over()
        assert (result.outcome, result.ended_by, reusable) == ("closed", first, True)


async def test_early_bytes_come_first(sessions):
    client, service = await sessions.connect(early=b"early ")
    await client.send(b"late")
    assert await service.receive(10) == b"early late"
    assert client.relay.bytes_to_service == 10
    await end_cleanly(client, service)


async def test_early_bytes_longer_than_a_frame_arrive_whole(plaintext):
    early = os.urandom(200_000)
    client, service = await plaintext.connect(early=early)
    client.finish()
    assert await service.receive() == early
    service.end.close()
    assert (await client.over())[1] is True


async def test_application_bytes_that_come_with_the_reply_wait_for_the_relay(plaintext):
    replied = soon()
    plaintext.client.open(REQUEST, replied.set_result)
    await wait(plaintext.requests.get())
    plaintext.server.reply(OpenReply(ReplyCode.OK))
    service = Ends(plaintext, "unix", "service", plaintext.server, b"greeting", None)
    service.finish()
    await wait(replied)
    while not service.relay._plain_eof:
        await asyncio.sleep(0)
    client = Ends(plaintext, "unix", "client", plaintext.client, b"", None)
    assert await client.receive() == b"greeting"
    client.finish()
    assert (await client.over())[1] is True
    await service.over()


@pytest.mark.parametrize("kind", ["plaintext", "tls"])
async def test_bulk_both_ways_at_once_arrives_unchanged(reactor, pair, streams, kind):
    sessions = Sessions(reactor, pair, await streams(kind))
    client, service = await sessions.connect()
    up, down = os.urandom(12_000_000), os.urandom(9_000_000)
    sending = asyncio.gather(client.send(up), service.send(down))
    got_up, got_down = await asyncio.gather(service.receive(len(up)), client.receive(len(down)))
    await sending
    assert (got_up, got_down) == (up, down)
    for result, reusable in await end_cleanly(client, service):
        assert (result.bytes_to_service, result.bytes_to_client, reusable) == (len(up), len(down), True)
    sessions.close()


@pytest.mark.parametrize("size", [65531, 65532, 65533, 2 * 65532, 2 * 65532 + 1, 3 * 65532 - 1])
async def test_pieces_about_the_size_of_frames_arrive_unchanged(plaintext, size):
    client, service = await plaintext.connect()
    for piece in (os.urandom(size), b"short", os.urandom(size)):
        await client.send(piece)
        assert await service.receive(len(piece)) == piece
    await end_cleanly(client, service)


async def test_after_a_full_frame_several_frames_leave_with_one_write(reactor, pair, streams):
    both, written = await streams(), []
    write = both[0].write
    both[0].write = lambda data: written.append(len(data)) or write(data)
    sessions = Sessions(reactor, pair, both)
    client, service = await sessions.connect()
    written.clear()
    piece = os.urandom(2 * 65532 + 1000)
    assert client.end.send(piece) == len(piece)
    assert await service.receive(len(piece)) == piece
    assert written == [65536, 65536 + 4 + 1000]
    sessions.close()


@pytest.mark.parametrize("kind", ["plaintext", "tls"])
async def test_a_reader_that_starts_late_gets_everything_before_the_session_is_used_again(reactor, pair, streams, kind):
    sessions = Sessions(reactor, pair, await streams(kind))
    client, service = await sessions.connect()
    sent, idle = 0, 0
    while idle < 200:
        try:
            sent += client.end.send(bytes(65536))
            idle = 0
        except BlockingIOError:
            idle += 1
            await asyncio.sleep(0)
    client.finish()
    service.finish()
    assert await client.receive() == b""
    for _ in range(50):
        await asyncio.sleep(0)
    assert not client.result.done()
    assert sessions.client.state == "relaying"
    assert len(await service.receive()) == sent
    assert (await client.over())[1] is (await service.over())[1] is True
    sessions.close()


async def test_a_refusal_leaves_the_session_idle(sessions):
    for code in (ReplyCode.CONNECTION_LIMIT, ReplyCode.SERVICE_REFUSED):
        replied = soon()
        sessions.client.open(REQUEST, replied.set_result)
        await wait(sessions.requests.get())
        sessions.server.reply(OpenReply(code, "because"))
        assert await wait(replied) == OpenReply(code, "because")
        assert (sessions.client.state, sessions.server.state) == ("idle", "idle")
    client, service = await sessions.connect()
    await end_cleanly(client, service)


async def test_the_next_connection_may_begin_the_moment_the_last_one_ended(plaintext):
    """The peer's END and the next OPEN can arrive in one read."""
    client, service = await plaintext.connect()
    replied = soon()

    def again(*_result):
        plaintext.client.open(REQUEST, replied.set_result)

    client.relay._on_close = again
    client.finish()
    service.finish()
    assert await wait(plaintext.requests.get()) == REQUEST
    plaintext.server.reply(OpenReply(ReplyCode.NO_ENDPOINT, "x"))
    assert (await wait(replied)).code is ReplyCode.NO_ENDPOINT


@pytest.mark.parametrize("side", ["client", "service"])
async def test_a_reset_plain_end_is_a_reset_at_the_other_and_the_session_is_thrown_away(sessions, side):
    client, service = await sessions.connect(kind="tcp")
    broken, other = (client, service) if side == "client" else (service, client)
    await broken.send(b"last words")
    assert await other.receive(10) == b"last words"
    broken.end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    broken.end.close()
    with pytest.raises(ConnectionResetError):
        await other.receive(1)
    for end in (broken, other):
        result, reusable = await end.over()
        assert (result.outcome, result.ended_by, reusable) == ("reset", side, False)
        assert result.reason == f"{side}: connection reset by peer"
    assert (sessions.client.state, sessions.server.state) == ("dead", "dead")


async def test_a_service_that_goes_on_talking_to_a_closed_client_is_reset(sessions):
    client, service = await sessions.connect()
    await client.send(b"bye")
    client.end.close()
    assert await service.receive() == b"bye"
    await service.send(b"is anybody there?")
    result, reusable = await client.over()
    assert (result.outcome, result.ended_by, reusable) == ("reset", "client", False)
    result, reusable = await service.over()
    assert (result.outcome, result.ended_by, reusable) == ("reset", "client", False)
    with pytest.raises(BrokenPipeError):
        await service.send(b"x")


async def test_a_session_that_breaks_without_fin_is_a_reset_never_an_end_of_file(reactor, pair, streams):
    for kind in ("plaintext", "tls"):
        sessions = Sessions(reactor, pair, await streams(kind))
        client, service = await sessions.connect(kind="tcp")
        await service.send(b"part of an answer")
        assert await client.receive(17) == b"part of an answer"
        sessions.server.stream.close()
        sessions.server.close()
        with pytest.raises(ConnectionResetError):
            await client.receive(1)
        result, reusable = await client.over()
        assert (result.outcome, result.ended_by, reusable) == ("reset", "service", False)
        assert result.reason.startswith("tunnel: ")
        assert (await service.over())[1] is False
        sessions.close()


async def test_abort_is_told_to_the_peer_with_its_reason(sessions):
    client, service = await sessions.connect(kind="tcp")
    sessions.client.abort("no longer allowed")
    result, reusable = await client.over()
    assert (result.outcome, result.ended_by, result.reason, reusable) == ("aborted", "agent", "no longer allowed", False)
    result, reusable = await service.over()
    assert (result.ended_by if result.outcome == "aborted" else "agent", reusable) == ("agent", False)
    for end in (client, service):
        with pytest.raises(ConnectionResetError):
            await end.receive(1)


async def test_an_idle_connection_is_cut_at_both_ends(plaintext):
    client, service = await plaintext.connect(idle_timeout=0.05)
    for end in (client, service):
        result, reusable = await end.over()
        assert (result.outcome, result.ended_by, reusable) == ("idle_timeout", "agent", False)


async def test_a_client_waiting_for_its_reply_learns_that_the_session_broke(plaintext):
    replied = soon()
    plaintext.client.open(REQUEST, replied.set_result)
    await wait(plaintext.requests.get())
    plaintext.server.close()
    error = await wait(replied)
    assert isinstance(error, TransportError)
    assert error.reason == "session_lost"
    assert plaintext.client_lost == []
    assert plaintext.client.state == "dead"


async def test_a_server_that_is_deciding_learns_that_the_client_gave_up(plaintext):
    plaintext.client.open(REQUEST, pytest.fail)
    await wait(plaintext.requests.get())
    plaintext.client.abort("deadline")
    while not plaintext.server_lost:
        await asyncio.sleep(0)
    assert plaintext.server_lost == ["tunnel: the other agent reset the session: deadline"]
    with pytest.raises(LocalProtocolError):
        plaintext.server.reply(OpenReply(ReplyCode.OK))


@pytest.mark.parametrize("role", ["client", "server"])
async def test_an_idle_session_whose_peer_goes_away_is_reported_lost_once(plaintext, role):
    here, there = (plaintext.client, plaintext.server) if role == "client" else (plaintext.server, plaintext.client)
    lost = plaintext.client_lost if role == "client" else plaintext.server_lost
    there.close()
    while not lost:
        await asyncio.sleep(0)
    assert lost == ["tunnel: the other agent closed the session"]
    assert here.state == "dead"
    here.close()
    assert len(lost) == 1


async def test_unexpected_bytes_on_an_idle_session_kill_it(plaintext):
    plaintext.server.stream.sock.send(b"\x04\0\0\1x")
    while not plaintext.client_lost:
        await asyncio.sleep(0)
    assert "violated" in plaintext.client_lost[0]
    assert plaintext.client.stream.closed


async def test_a_violation_while_relaying_is_an_error_and_not_an_end_of_file(plaintext):
    client, service = await plaintext.connect(kind="tcp")
    plaintext.server.stream.sock.send(b"\x06\0\0\0")
    result, reusable = await client.over()
    assert (result.outcome, result.ended_by, reusable) == ("error", "agent", False)
    with pytest.raises(ConnectionResetError):
        await client.receive(1)
    result, reusable = await service.over()
    assert (result.outcome, reusable) in (("error", False), ("reset", False))


async def test_a_violation_while_waiting_for_the_reply_goes_to_on_reply(plaintext):
    replied = soon()
    plaintext.client.open(REQUEST, replied.set_result)
    plaintext.server.stream.sock.send(b"\x01\0\0\0")
    error = await wait(replied)
    assert isinstance(error, RemoteProtocolError)
    assert error.code is ResetCode.PROTOCOL_ERROR


async def test_a_reset_behind_data_in_one_read_delivers_the_data_first(plaintext):
    client, service = await plaintext.connect(kind="unix")
    spy = TunnelSession("server")
    frame = bytearray(4 + 5)
    frame[4:] = b"words"
    frame[:4] = b"\x04\0\0\5"
    assert spy.idle
    plaintext.server.stream.sock.send(bytes(frame) + encode_reset(ResetCode.RESET, "gone"))
    assert await client.receive() == b"words"
    result, _ = await client.over()
    assert (result.outcome, result.reason, result.bytes_to_client) == ("reset", "gone", 5)
    await service.over()


async def test_a_reset_right_behind_a_fin_in_one_read_is_a_reset_and_no_error_of_ours(plaintext):
    client, service = await plaintext.connect(kind="unix")
    client.finish()
    assert await service.receive() == b""  # the client's end-of-file has arrived: END would be our answer to FIN
    plaintext.server.stream.sock.send(b"\x05\0\0\0" + encode_reset(ResetCode.RESET, "gone"))
    result, reusable = await client.over()
    assert (result.outcome, result.reason, reusable) == ("reset", "gone", False)
    await service.over()


@pytest.mark.parametrize("early", [b"", b"early bytes"])
async def test_a_reset_right_behind_the_reply_ends_the_relay_as_reset(plaintext, early):
    opened = soon()

    def replied(reply):
        assert reply.code is ReplyCode.OK
        opened.set_result(Ends(plaintext, "unix", "client", plaintext.client, early, None))

    plaintext.client.open(REQUEST, replied)
    await wait(plaintext.requests.get())
    plaintext.server.stream.sock.send(
        encode_reply(OpenReply(ReplyCode.OK)) + b"\x04\0\0\5words" + encode_reset(ResetCode.RESET, "gone")
    )
    client = await wait(opened)
    assert await client.receive(5) == b"words"
    result, reusable = await client.over()
    assert (result.outcome, result.reason, reusable) == ("reset", "gone", False)


async def test_a_reset_right_behind_a_refusal_leaves_a_session_nobody_uses_again(plaintext):
    states = []
    plaintext.client.open(REQUEST, lambda reply: states.append((reply.code, plaintext.client.state)))
    await wait(plaintext.requests.get())
    plaintext.server.stream.sock.send(
        encode_reply(OpenReply(ReplyCode.DRAINING)) + encode_reset(ResetCode.ABORTED, "shutting down")
    )
    while not plaintext.client_lost:
        await asyncio.sleep(0)
    assert states == [(ReplyCode.DRAINING, "opening")]
    assert plaintext.client.state == "dead"


async def test_a_request_taken_back_in_the_same_read_is_not_served(plaintext):
    plaintext.client.stream.sock.send(encode_open(REQUEST) + encode_reset(ResetCode.ABORTED, "never mind"))
    while not plaintext.server_lost:
        await asyncio.sleep(0)
    assert plaintext.requests.empty()
    assert plaintext.server.state == "dead"


async def test_misuse_is_an_error_of_ours(plaintext):
    near, _far = plaintext.pair("unix")
    with pytest.raises(LocalProtocolError, match="open one first"):
        plaintext.client.relay(near, idle_timeout=None, on_close=pytest.fail)
    with pytest.raises(LocalProtocolError):
        plaintext.server.open(REQUEST, pytest.fail)
    with pytest.raises(LocalProtocolError, match="cannot serve"):
        plaintext.client.serve(pytest.fail)
    with pytest.raises(LocalProtocolError):
        plaintext.server.reply(OpenReply(ReplyCode.OK))
    assert plaintext.client.state == "idle"


async def test_a_request_that_comes_before_serve_waits_for_it(reactor, pair, streams):
    near, far = await streams()
    client = FramedSession(reactor, near, role="client")
    server = FramedSession(reactor, far, role="server")
    replied = soon()
    client.open(REQUEST, replied.set_result)
    for _ in range(20):
        await asyncio.sleep(0)
    asked = soon()
    server.serve(asked.set_result)
    assert await wait(asked) == REQUEST
    server.reply(OpenReply(ReplyCode.DRAINING, ""))
    assert (await wait(replied)).code is ReplyCode.DRAINING
    client.close()
    server.close()


async def test_a_session_that_breaks_between_reply_and_relay_ends_the_relay_as_reset(plaintext):
    replied = soon()
    plaintext.client.open(REQUEST, replied.set_result)
    await wait(plaintext.requests.get())
    plaintext.server.reply(OpenReply(ReplyCode.OK))
    await wait(replied)
    plaintext.server.close()
    client = Ends(plaintext, "unix", "client", plaintext.client, b"", None)
    result, reusable = await client.over()
    assert (result.outcome, reusable) == ("reset", False)


async def test_readers_that_never_read_cost_at_most_the_stated_bound_each(reactor, pair, streams):
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(1000, (soft - 200) // 6)
    everything = []
    for _ in range(count):
        both = await streams()
        for stream in both:  # small kernel buffers, or filling 1,000 of them takes long
            stream.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)
            stream.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        sessions = Sessions(reactor, pair, both)
        everything.append((sessions, *await sessions.connect()))
    block = bytes(65536)
    blocked = set()
    for _ in range(1000):
        for sessions, client, service in everything:
            for end in (client, service):
                with contextlib.suppress(BlockingIOError):
                    end.end.send(block)
            if client.relay.holds and service.relay.holds and sessions.client.unsent and sessions.server.unsent:
                blocked.add(sessions)
        await asyncio.sleep(0)
        if len(blocked) == count:
            break
    assert len(blocked) == count, "the kernel still takes bytes: the test does not show the bound"
    most = 0
    for sessions, client, service in everything:
        for session, end in ((sessions.client, client), (sessions.server, service)):
            most = max(most, len(session._out) + len(end.relay._pending))
    assert 0 < most <= FRAMED_PENDING_BOUND
    for sessions, client, service in everything:
        sessions.close()
        await client.over()
        await service.over()


@pytest.mark.parametrize("side", ["client", "service"])
async def test_a_reset_right_behind_the_last_bytes_is_a_reset_not_an_end_of_file(plaintext, side):
    """The kernel tells an error once: the look-ahead for an end-of-file must not swallow it."""
    client, service = await plaintext.connect(kind="tcp")
    broken, other = (client, service) if side == "client" else (service, client)
    broken.end.send(b"last words")
    broken.end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    broken.end.close()
    assert await other.receive(10) == b"last words"
    with pytest.raises(ConnectionResetError):
        await other.receive(1)
    for end in (broken, other):
        result, reusable = await end.over()
        assert (result.outcome, result.ended_by, reusable) == ("reset", side, False)


async def test_thousands_of_small_frames_in_one_read_arrive_whole(plaintext):
    """The kernel takes 1024 pieces in one call and refuses more: a stream of small messages stood still here."""
    client, service = await plaintext.connect(kind="unix")
    pieces = [b"%d," % number for number in range(5000)]
    plaintext.server.stream.sock.send(b"".join(b"\x04" + len(piece).to_bytes(3, "big") + piece for piece in pieces))
    whole = b"".join(pieces)
    assert await client.receive(len(whole)) == whole
    assert client.relay.bytes_to_client == len(whole)
    for side in (client, service):
        side.relay.abort("done")
