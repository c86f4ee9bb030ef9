"""The framed session carries bytes: whole, in order, both ways, within its bound, one connection after another."""

import asyncio
import contextlib
import os
import resource
import socket

import pytest

from meshless_core.relay.framed import FRAMED_PENDING_BOUND
from meshless_core.tunnel import OpenReply
from meshless_core.types import ReplyCode
from tests.relay.framed_sessions import REQUEST, Ends, Sessions, end_cleanly, soon, wait


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
    both = await streams()
    write, written = both[0].write, list[int]()

    def write_and_tell(data: bytes) -> int | None:
        written.append(len(data))
        taken: int | None = write(data)
        return taken

    both[0].write = write_and_tell
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
    flowing = everything
    for _ in range(1000):
        for _sessions, client, service in flowing:
            for end in (client, service):
                with contextlib.suppress(BlockingIOError):
                    end.end.send(block)
        await asyncio.sleep(0)
        flowing = [
            (sessions, client, service)
            for sessions, client, service in flowing
            if not (client.relay.holds and service.relay.holds and sessions.client.unsent and sessions.server.unsent)
        ]
        if not flowing:
            break
    assert not flowing, "the kernel still takes bytes: the test does not show the bound"
    most = 0
    for sessions, client, service in everything:
        for session, end in ((sessions.client, client), (sessions.server, service)):
            most = max(most, len(session._out) + len(end.relay._pending))
    assert 0 < most <= FRAMED_PENDING_BOUND
    for sessions, client, service in everything:
        sessions.close()
        await client.over()
        await service.over()


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
