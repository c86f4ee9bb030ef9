"""Between connections of a framed session: requests, refusals, and whoever waits learns of a loss, exactly once."""

import asyncio

import pytest

from meshless_core.errors import LocalProtocolError, RemoteProtocolError, TransportError
from meshless_core.relay.framed import FramedSession
from meshless_core.tunnel import OpenReply, ResetCode
from meshless_core.tunnel.frames import encode_open, encode_reply, encode_reset
from meshless_core.types import ReplyCode
from tests.relay.framed_sessions import REQUEST, Ends, end_cleanly, soon, wait


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


async def test_a_violation_while_waiting_for_the_reply_goes_to_on_reply(plaintext):
    replied = soon()
    plaintext.client.open(REQUEST, replied.set_result)
    plaintext.server.stream.sock.send(b"\x01\0\0\0")
    error = await wait(replied)
    assert isinstance(error, RemoteProtocolError)
    assert error.code is ResetCode.PROTOCOL_ERROR


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
