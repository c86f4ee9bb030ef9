"""The plain engine: nothing lost at any switch, every order of end-of-file and reset, bounded memory, honest counts."""

import asyncio
import contextlib
import errno
import hashlib
import os
import resource
import select
import socket
import time

import pytest

from meshless_core.relay import pipes
from meshless_core.relay.interface import MAX_REASON_CHARS
from meshless_core.relay.plain import PENDING_BOUND, SPLICE_AFTER, relay_plain
from meshless_core.relay.reactor import SCRATCH_BYTES
from tests.relay.plain_connection import Connection, fill, receive, send

KINDS = [("unix", "unix"), ("unix", "tcp"), ("tcp", "unix"), ("tcp", "tcp")]


@pytest.mark.parametrize(("client_kind", "service_kind"), KINDS)
async def test_bytes_pass_both_ways_and_are_counted(reactor, pair, client_kind, service_kind):
    c = Connection(reactor, pair, client_kind, service_kind)
    await send(c.client, b"ping")
    assert await receive(c.service, 4) == b"ping"
    await send(c.service, b"pong!")
    assert await receive(c.client, 5) == b"pong!"
    assert (c.relay.bytes_to_service, c.relay.bytes_to_client) == (4, 5)
    c.client.close()
    assert await receive(c.service) == b""
    c.service.close()
    result = await c.over()
    assert (result.outcome, result.reason, result.ended_by) == ("closed", "", "client")
    assert (result.bytes_to_service, result.bytes_to_client) == (4, 5)


async def test_early_bytes_come_first_and_are_counted(reactor, pair):
    c = Connection(reactor, pair, early=b"early ")
    await send(c.client, b"late")
    assert await receive(c.service, 10) == b"early late"
    assert c.relay.bytes_to_service == 10
    c.relay.abort("enough")
    await c.over()


async def test_early_bytes_with_an_end_of_file_right_behind_arrive(reactor, pair):
    c = Connection(reactor, pair, early=b"all there is")
    c.client.shutdown(socket.SHUT_WR)
    assert await receive(c.service) == b"all there is"
    c.service.close()
    assert (await c.over()).outcome == "closed"


@pytest.mark.parametrize(("client_kind", "service_kind"), KINDS)
async def test_a_half_close_by_the_client_leaves_the_answer_intact(reactor, pair, client_kind, service_kind):
    c = Connection(reactor, pair, client_kind, service_kind)
    await send(c.client, b"question")
    c.client.shutdown(socket.SHUT_WR)
    assert await receive(c.service) == b"question"
    answer = os.urandom(3_000_000)
    sending = asyncio.ensure_future(send(c.service, answer))
    assert await receive(c.client, len(answer)) == answer
    await sending
    c.service.shutdown(socket.SHUT_WR)
    assert await receive(c.client) == b""
    result = await c.over()
    assert (result.outcome, result.ended_by) == ("closed", "client")
    assert (result.bytes_to_service, result.bytes_to_client) == (8, len(answer))


@pytest.mark.parametrize(("client_kind", "service_kind"), KINDS)
async def test_a_half_close_by_the_service_leaves_the_question_intact(reactor, pair, client_kind, service_kind):
    c = Connection(reactor, pair, client_kind, service_kind)
    c.service.shutdown(socket.SHUT_WR)
    assert await receive(c.client) == b""
    await send(c.client, b"still talking")
    assert await receive(c.service, 13) == b"still talking"
    c.client.close()
    assert await receive(c.service) == b""
    assert (await c.over()).ended_by == "service"


@pytest.mark.parametrize(("client_kind", "service_kind"), KINDS)
async def test_a_reader_that_starts_late_gets_everything_and_the_end_of_file(reactor, pair, client_kind, service_kind):
    c = Connection(reactor, pair, client_kind, service_kind)
    sent = await fill(c.client)
    c.client.shutdown(socket.SHUT_WR)
    assert len(await receive(c.service)) == sent
    c.service.close()
    result = await c.over()
    assert (result.outcome, result.bytes_to_service) == ("closed", sent)


@pytest.mark.parametrize(("client_kind", "service_kind"), KINDS)
async def test_bulk_both_ways_at_once_arrives_unchanged(reactor, pair, client_kind, service_kind):
    c = Connection(reactor, pair, client_kind, service_kind)
    up, down = os.urandom(24_000_000), os.urandom(20_000_000)

    async def one_way(source, sink, data):
        sending = asyncio.ensure_future(send(source, data))
        got = await receive(sink, len(data))
        await sending
        return hashlib.sha256(got).digest() == hashlib.sha256(data).digest()

    assert all(await asyncio.gather(one_way(c.client, c.service, up), one_way(c.service, c.client, down)))
    assert (c.relay.bytes_to_service, c.relay.bytes_to_client) == (len(up), len(down))
    c.client.close()
    c.service.close()
    await c.over()
    assert reactor.pipes.in_use == 0


async def start_splicing(c, reactor):
    """Bulk from client to service until the relay splices; bytes sent."""
    sent = 0
    block = bytes(SCRATCH_BYTES)
    while reactor.pipes.in_use == 0:
        sending = asyncio.ensure_future(send(c.client, block))
        await receive(c.service, len(block))
        await sending
        sent += len(block)
        assert sent < 400 * SPLICE_AFTER, "never began to splice"
    return sent


async def test_bulk_between_unix_sockets_is_spliced_and_small_traffic_gives_the_pipe_back(reactor, pair):
    c = Connection(reactor, pair)
    await start_splicing(c, reactor)
    for number in range(64):
        await send(c.client, b"%04d" % number)
        assert await receive(c.service, 4) == b"%04d" % number
    assert reactor.pipes.in_use == 0
    c.relay.abort("enough")
    await c.over()


async def test_an_end_of_file_with_bytes_still_in_the_pipe_loses_none(reactor, pair):
    c = Connection(reactor, pair)
    await start_splicing(c, reactor)
    data = os.urandom(2_000_000)
    taken = 0
    for _ in range(2000):
        try:
            taken += c.client.send(data[taken:])
        except BlockingIOError:
            await asyncio.sleep(0)
    assert c.relay._to_service.pipe.held > 0  # the service reads nothing: kernel and pipe are full
    c.client.shutdown(socket.SHUT_WR)
    assert await receive(c.service) == data[:taken]
    c.service.close()
    assert (await c.over()).outcome == "closed"
    assert reactor.pipes.in_use == 0


async def test_splice_refused_towards_the_sink_falls_back_without_losing_a_byte(reactor, pair, monkeypatch):
    c = Connection(reactor, pair)
    await start_splicing(c, reactor)
    real, sink = os.splice, c.near[1].fileno()

    def refuse(source, target, count, **flags):
        if target == sink:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(source, target, count, **flags)

    monkeypatch.setattr(os, "splice", refuse)
    data = os.urandom(3_000_000)
    sending = asyncio.ensure_future(send(c.client, data))
    assert await receive(c.service, len(data)) == data
    await sending
    assert reactor.pipes.in_use == 0
    c.relay.abort("enough")
    await c.over()


async def test_splice_refused_from_the_source_falls_back_without_losing_a_byte(reactor, pair, monkeypatch):
    c = Connection(reactor, pair)
    await start_splicing(c, reactor)

    def refuse(*_args, **_flags):
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "splice", refuse)
    data = os.urandom(1_000_000)
    sending = asyncio.ensure_future(send(c.client, data))
    assert await receive(c.service, len(data)) == data
    await sending
    assert reactor.pipes.in_use == 0
    c.relay.abort("enough")
    await c.over()


async def test_without_a_pipe_bulk_is_copied(reactor, pair):
    reactor.pipes = pipes.PipePool(limit=0)
    c = Connection(reactor, pair)
    data = os.urandom(4 * SPLICE_AFTER)
    sending = asyncio.ensure_future(send(c.client, data))
    assert await receive(c.service, len(data)) == data
    await sending
    c.relay.abort("enough")
    await c.over()


async def expect_reset(end):
    with pytest.raises(OSError) as caught:  # noqa: PT012 - either the read or the write after it shows the reset
        if await asyncio.wait_for(asyncio.get_running_loop().sock_recv(end, 1), 10) == b"":
            end.send(b"x")
    assert caught.value.errno in (errno.ECONNRESET, errno.EPIPE)


@pytest.mark.parametrize("service_kind", ["unix", "tcp"])
async def test_a_tcp_reset_by_the_client_is_a_reset_for_the_service(reactor, pair, service_kind):
    c = Connection(reactor, pair, "tcp", service_kind)
    await send(c.client, b"x")
    assert await receive(c.service, 1) == b"x"
    c.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    c.client.close()
    await expect_reset(c.service)
    result = await c.over()
    assert (result.outcome, result.ended_by, result.reason) == ("reset", "client", "client: connection reset by peer")


async def test_a_unix_client_that_closes_over_unread_bytes_is_a_reset_for_the_service(reactor, pair):
    c = Connection(reactor, pair, "unix", "tcp")
    await send(c.service, b"never read")
    while c.relay.bytes_to_client < 10:
        await asyncio.sleep(0)
    c.client.close()
    await expect_reset(c.service)
    assert (await c.over()).outcome == "reset"


@pytest.mark.parametrize("kind", ["unix", "tcp"])
async def test_a_service_that_goes_on_talking_to_a_closed_client_learns_it(reactor, pair, kind):
    c = Connection(reactor, pair, kind, kind)
    c.client.close()
    assert await receive(c.service) == b""

    async def talk():
        while True:
            await send(c.service, b"is anybody there?")
            await asyncio.sleep(0)

    with pytest.raises(OSError) as caught:
        await talk()
    assert caught.value.errno in (errno.EPIPE, errno.ECONNRESET)
    result = await c.over()
    assert result.ended_by == "client"
    assert result.outcome == ("closed" if kind == "unix" else "reset")


async def test_a_unix_service_gets_epipe_when_the_client_is_gone_as_without_us(reactor, pair):
    c = Connection(reactor, pair)
    c.client.close()
    assert await receive(c.service) == b""
    assert (await c.over()).outcome == "closed"
    with pytest.raises(BrokenPipeError):
        await send(c.service, b"nobody will read this")


async def test_a_unix_service_whose_words_were_not_read_is_reset(reactor, pair):
    c = Connection(reactor, pair)
    full = await fill(c.service)  # the client reads nothing: its socket, then what we keep, then the service's socket
    assert full
    c.client.close()
    result = await c.over()
    assert result.outcome == "reset"
    assert result.ended_by == "client"
    with pytest.raises(ConnectionError):
        await send(c.service, b"x")


async def test_what_a_client_sent_before_it_stopped_reading_is_delivered_before_the_reset(reactor, pair):
    c = Connection(reactor, pair)
    sent = await fill(c.client)
    c.client.close()
    await send(c.service, b"answer nobody reads")
    got = 0
    with pytest.raises(ConnectionError):  # noqa: PT012 - reads until the reset
        while True:
            part = await asyncio.get_running_loop().sock_recv(c.service, 1 << 18)
            got += len(part)
            if not part:
                c.service.send(b"x")
    assert got == sent
    result = await c.over()
    assert (result.outcome, result.bytes_to_service) == ("reset", sent)


async def test_a_unix_peer_of_an_abort_sees_econnreset_with_unread_bytes_and_else_end_of_file_and_epipe(reactor, pair):
    """The kernel's limit, written down: ADR-0060."""
    c = Connection(reactor, pair)
    c.client.send(b"not read yet")  # no turn of the loop between this and the abort: it stays in the kernel
    c.relay.abort("policy says so")
    with pytest.raises(ConnectionResetError):
        c.client.recv(1)
    assert c.service.recv(1) == b""
    with pytest.raises(BrokenPipeError):
        c.service.send(b"x")
    result = await c.over()
    assert (result.outcome, result.ended_by, result.reason) == ("aborted", "agent", "policy says so")


async def test_a_tcp_peer_of_an_abort_sees_a_reset(reactor, pair):
    c = Connection(reactor, pair, "tcp", "tcp")
    c.relay.abort("x" * 1000)
    for end in (c.client, c.service):
        with pytest.raises(ConnectionResetError):
            await receive(end, 1)
    assert len((await c.over()).reason) == MAX_REASON_CHARS


async def test_abort_after_the_end_does_nothing(reactor, pair):
    c = Connection(reactor, pair)
    c.relay.abort("first")
    c.relay.abort("second")  # a second result would raise InvalidStateError
    assert (await c.over()).reason == "first"


async def test_an_idle_connection_is_cut_and_an_active_one_is_not(reactor, pair, monkeypatch):
    clock, ahead = time.monotonic, 0.0
    monkeypatch.setattr(time, "monotonic", lambda: clock() + ahead)
    c = Connection(reactor, pair, idle_timeout=1000)
    for _ in range(5):  # active for longer than the timeout
        ahead += 600
        await send(c.client, b"x")
        await receive(c.service, 1)
        await asyncio.sleep(0)
    assert not c.relay.closed
    ahead += 900
    await asyncio.sleep(0)
    assert not c.relay.closed
    ahead += 101
    result = await c.over()
    assert (result.outcome, result.ended_by) == ("idle_timeout", "agent")
    assert "1000 s" in result.reason


async def test_a_peer_that_hangs_up_while_its_bytes_wait_does_not_spin_the_loop(reactor, pair, monkeypatch):
    c = Connection(reactor, pair)
    sent = await fill(c.client)
    c.client.close()
    for _ in range(50):
        await asyncio.sleep(0)
    turns = 0
    serve = reactor._serve

    def count(ready):
        nonlocal turns
        turns += any(fd in reactor._handlers for fd, _events in ready)
        return serve(ready)

    monkeypatch.setattr(reactor, "_serve", count)
    for _ in range(50):
        await asyncio.sleep(0)
    assert turns <= 2
    assert len(await receive(c.service)) == sent
    c.service.close()
    await c.over()


async def test_a_bug_in_the_engine_ends_this_connection_with_an_error_and_no_other(reactor, pair, monkeypatch):
    c, other = Connection(reactor, pair), Connection(reactor, pair)
    monkeypatch.setattr(c.relay._to_service, "_recv_into", None)
    await send(c.client, b"x")
    result = await c.over()
    assert (result.outcome, result.ended_by) == ("error", "agent")
    await send(other.client, b"x")
    assert await receive(other.service, 1) == b"x"
    other.relay.abort("enough")
    await other.over()


async def test_sockets_the_kernel_does_not_watch_are_closed_and_reported(reactor, pair):
    near, _ = pair("unix")
    other, _ = pair("unix")
    reactor.add(other.fileno(), select.EPOLLIN, lambda _events: None)
    told: list[object] = []
    with pytest.raises(OSError, match="exists"):
        relay_plain(reactor, near, other, idle_timeout=0.01, on_close=told.append)
    assert near.fileno() == other.fileno() == -1
    assert len(reactor) == 0
    later = reactor.loop.create_future()
    reactor.loop.call_later(0.02, later.set_result, None)  # timers fire in order
    await later
    assert not told


async def test_readers_that_never_read_cost_at_most_the_stated_bound_each(reactor, pair):
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(1000, (soft - 200) // 4)
    connections = [Connection(reactor, pair) for _ in range(count)]
    block = bytes(SCRATCH_BYTES)
    flowing = {(c.client, c.relay._to_service) for c in connections} | {(c.service, c.relay._to_client) for c in connections}
    for _ in range(1000):
        for end, _flow in flowing:
            with contextlib.suppress(BlockingIOError):
                end.send(block)
        await asyncio.sleep(0)
        flowing = {one for one in flowing if not one[1].holds()}
        if not flowing:
            break
    assert not flowing, "some readers' kernels still take bytes: the test does not show the bound"

    def held(flow):
        return len(flow.pending) + (flow.pipe.held if flow.pipe else 0)

    most = max(held(c.relay._to_service) + held(c.relay._to_client) for c in connections)
    assert 0 < most <= 2 * PENDING_BOUND
    assert reactor.pipes.in_use <= pipes.MAX_PIPES
    for c in connections:
        c.relay.abort("shown")
        await c.over()


async def test_a_reset_right_behind_the_last_bytes_is_a_reset_not_an_end_of_file(reactor, pair):
    c = Connection(reactor, pair, "tcp", "unix")
    c.client.send(b"last words")
    c.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    c.client.close()
    assert await receive(c.service, 10) == b"last words"
    await expect_reset(c.service)
    assert (await c.over()).outcome == "reset"
