"""An end of a Unix socket that goes away as a whole, after it had stopped sending, or while what it sent is not read."""

import asyncio
import select
import socket

import pytest

from tests.relay.plain_connection import Connection, fill, receive, send


@pytest.mark.parametrize("side", ["client", "service"])
async def test_a_unix_end_that_half_closed_and_then_goes_away_ends_the_connection(reactor, pair, side):
    c = Connection(reactor, pair)
    leaving, staying = (c.client, c.service) if side == "client" else (c.service, c.client)
    leaving.shutdown(socket.SHUT_WR)
    assert await receive(staying) == b""
    await send(staying, b"still read")
    assert await receive(leaving, 10) == b"still read"
    leaving.close()
    result = await c.over()
    assert (result.outcome, result.ended_by) == ("closed", side)
    with pytest.raises(BrokenPipeError):
        await send(staying, b"nobody will read this")


@pytest.mark.parametrize("side", ["client", "service"])
async def test_a_unix_end_that_half_closed_and_then_goes_away_over_unread_bytes_resets(reactor, pair, side):
    c = Connection(reactor, pair)
    leaving, staying = (c.client, c.service) if side == "client" else (c.service, c.client)
    leaving.shutdown(socket.SHUT_WR)
    assert await receive(staying) == b""
    await send(staying, b"never read")
    await asyncio.get_running_loop().run_in_executor(None, select.select, [leaving], [], [], 10)
    leaving.close()
    result = await c.over()
    assert (result.outcome, result.ended_by) == ("reset", side)


async def test_a_hang_up_of_the_service_is_told_although_the_client_reads_nothing(reactor, pair):
    hung_up = asyncio.Event()
    c = Connection(reactor, pair, on_hang_up=hung_up.set)
    sent = await fill(c.service)
    c.service.close()
    await asyncio.wait_for(hung_up.wait(), 10)
    assert not c.relay.closed
    assert len(await receive(c.client)) == sent
    assert (await c.over()).outcome == "closed"


@pytest.mark.parametrize("side", ["client", "service"])
@pytest.mark.parametrize("kind", ["unix", "tcp"])
@pytest.mark.parametrize("apart", [0, 100], ids=["at_once", "one_after_the_other"])
async def test_both_ends_go_away_over_bytes_that_neither_reads(reactor, pair, apart, kind, side):
    c = Connection(reactor, pair, kind, kind)
    first, second = (c.client, c.service) if side == "client" else (c.service, c.client)
    await fill(c.client)
    await fill(c.service)
    first.close()
    for _ in range(apart):
        await asyncio.sleep(0)
    second.close()
    result = await c.over()
    assert result.outcome == "reset"
    assert not apart or result.ended_by == side
