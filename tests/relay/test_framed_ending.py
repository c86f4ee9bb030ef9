"""How a connection of a framed session ends when it does not end cleanly: at both agents alike, and never as an end-of-file."""

import socket

import pytest

from meshless_core.tunnel import OpenReply, ResetCode, TunnelSession
from meshless_core.tunnel.frames import encode_reply, encode_reset
from meshless_core.types import ReplyCode
from tests.relay.framed_sessions import REQUEST, Ends, Sessions, soon, wait


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


async def test_a_service_that_goes_on_talking_to_a_closed_tcp_client_is_reset(sessions):
    client, service = await sessions.connect(kind="tcp")
    await client.send(b"bye")
    client.end.close()
    assert await service.receive() == b"bye"
    await service.send(b"is anybody there?")
    result, reusable = await client.over()
    assert (result.outcome, result.ended_by, reusable) == ("reset", "client", False)
    result, reusable = await service.over()
    assert (result.outcome, result.ended_by, reusable) == ("reset", "client", False)
    with pytest.raises(ConnectionError):
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
        assert (result.outcome, result.ended_by, reusable) == ("reset", "tunnel", False)
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


async def test_a_violation_while_relaying_is_an_error_and_not_an_end_of_file(plaintext):
    client, service = await plaintext.connect(kind="tcp")
    plaintext.server.stream.sock.send(b"\x06\0\0\0")
    result, reusable = await client.over()
    assert (result.outcome, result.ended_by, reusable) == ("error", "agent", False)
    with pytest.raises(ConnectionResetError):
        await client.receive(1)
    result, reusable = await service.over()
    assert (result.outcome, reusable) in (("error", False), ("reset", False))


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
