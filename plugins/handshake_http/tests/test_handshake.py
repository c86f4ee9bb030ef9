from __future__ import annotations

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st
from meshless_handshake_http.codes import ANSWERS
from meshless_handshake_http.handshake import HttpHandshake, State

from meshless_core import HandshakeRequest, LocalProtocolError, RemoteProtocolError, ReplyCode, ReplyDetails, ServiceId
from meshless_core.testing.handshake import check_handshake

CONNECT = b"CONNECT http.cart.shop:80 HTTP/1.1\r\nHost: http.cart.shop:80\r\n\r\n"
GET = b"GET /a?b HTTP/1.1\r\nHost: http.cart.shop\r\n\r\n"
POST = b"POST /b HTTP/1.1\r\nHost: http.cart.shop\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
DETAILS = ReplyDetails(connection_id=bytes(range(16)), retry_after=0.5)


def handshake() -> HttpHandshake:
    return HttpHandshake(16 * 1024)


def requested(data: bytes) -> HttpHandshake:
    made = handshake()
    request = made.receive_data(data)
    assert request is not None
    assert str(request.service_id) == "http.cart.shop"
    return made


def response(reply: bytes, method: str = "GET") -> tuple[h11.Response, bytes]:
    """Read a reply as a client does."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("Host", "http.cart.shop")]))
    client.send(h11.EndOfMessage())
    client.receive_data(reply)
    client.receive_data(b"")
    event = client.next_event()
    assert isinstance(event, h11.Response)
    body = b""
    while isinstance(data := client.next_event(), h11.Data):
        body += data.data
    assert isinstance(data, h11.EndOfMessage)
    return event, body


@pytest.mark.parametrize(
    ("data", "behind"),
    [
        (CONNECT, b""),
        (CONNECT + b"\x16\x03\x01", b"\x16\x03\x01"),
        (GET, GET),
        (POST, POST),
        (GET + POST + GET, GET + POST + GET),
    ],
)
def test_keeps_the_contract_of_handshakes(data: bytes, behind: bytes) -> None:
    request = HandshakeRequest(ServiceId("http", "cart", "shop"))
    check_handshake(handshake, [(data, request, behind)])


def test_a_tunnel_is_answered_and_what_follows_is_the_application_s() -> None:
    made = requested(CONNECT + b"\x16\x03")
    assert made.trailing_data == b"\x16\x03"
    assert made.reply(ReplyCode.OK) == b"HTTP/1.1 200 Connection established\r\n\r\n"
    assert not made.filtering


def test_a_request_is_forwarded_as_it_came_and_the_service_answers() -> None:
    made = requested(GET)
    assert made.trailing_data == GET
    assert made.reply(ReplyCode.OK) == b""
    assert made.filtering
    assert made.filter_data(GET) == GET
    assert made.filter_data(b"") == b""


def test_a_later_request_for_another_service_is_a_protocol_error() -> None:
    made = requested(GET)
    made.reply(ReplyCode.OK)
    with pytest.raises(RemoteProtocolError):
        made.filter_data(GET.replace(b"cart", b"other"))


def test_nothing_is_forwarded_before_ok() -> None:
    for made in (handshake(), requested(GET)):
        with pytest.raises(LocalProtocolError):
            made.filter_data(GET)


def test_a_request_in_pieces_is_the_same_request() -> None:
    made = handshake()
    for at in range(len(GET) - 1):
        assert made.receive_data(GET[at : at + 1]) is None
        assert made.trailing_data == b""
    assert made.receive_data(GET[-1:] + GET[:10]) is not None
    assert made.trailing_data == GET
    made.reply(ReplyCode.OK)
    assert made.filter_data(GET[10:]) == GET


def test_the_trace_context_is_the_header_s() -> None:
    value = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    request = handshake().receive_data(GET[:-2] + b"traceparent: %b\r\n\r\n" % value.encode())
    assert request is not None
    assert request.traceparent == value


@pytest.mark.parametrize("data", [CONNECT, GET])
@pytest.mark.parametrize("code", [code for code in ReplyCode if code is not ReplyCode.OK])
def test_a_refusal_is_a_whole_response_that_says_who_refuses_and_why(code: ReplyCode, data: bytes) -> None:
    event, body = response(requested(data).reply(code, 'no "way"\\ \r\nX: y \u20ac', DETAILS))
    fields = dict(event.headers)
    assert event.status_code == ANSWERS[code].status
    assert fields[b"connection"] == b"close"
    assert fields[b"retry-after"] == b"1"
    status = fields[b"proxy-status"].decode()
    assert status == f'meshless; error={ANSWERS[code].error}; details="{code.name}: no \\"way\\"\\\\ ??X: y ?"'
    text = body.decode()
    assert f'meshless: {code.name}: no "way"' in text
    assert code.advice in text
    assert "000102030405060708090a0b0c0d0e0f" in text


def test_a_refusal_without_a_text_or_details_says_what_the_code_means() -> None:
    event, body = response(requested(GET).reply(ReplyCode.NO_ENDPOINT))
    assert ReplyCode.NO_ENDPOINT.meaning in body.decode()
    assert b"retry-after" not in dict(event.headers)


def test_a_long_text_is_cut() -> None:
    _, body = response(requested(GET).reply(ReplyCode.INTERNAL_ERROR, "x" * 100_000))
    assert len(body) < 1000


def test_a_refused_head_request_gets_no_body() -> None:
    reply = requested(GET.replace(b"GET", b"HEAD")).reply(ReplyCode.SERVICE_NOT_FOUND)
    assert reply.endswith(b"\r\n\r\n")
    assert reply.count(b"\r\n\r\n") == 1
    event, body = response(reply, "HEAD")
    assert (event.status_code, body) == (404, b"")


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (GET + GET.replace(b"cart", b"other"), 421),
        (b"GET /" + b"a" * 20_000, 431),
        (GET[:-2] + b"Transfer-Encoding: gzip\r\n\r\n", 501),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"EHLO mail\r\n\r\n", 400),
    ],
)
def test_what_is_no_request_gets_the_status_that_says_so(data: bytes, status: int) -> None:
    made = handshake()
    with pytest.raises(RemoteProtocolError) as caught:
        made.receive_data(data)
    event, body = response(made.reply(ReplyCode(caught.value.code), str(caught.value)))
    assert event.status_code == status
    assert b"error=http_request_error" in dict(event.headers)[b"proxy-status"]
    assert str(caught.value)[:20].encode() in body


def test_an_end_of_file_before_the_head_is_complete_is_answered() -> None:
    made = handshake()
    made.receive_data(GET[:-1])
    with pytest.raises(RemoteProtocolError) as caught:
        made.receive_data(b"")
    assert response(made.reply(ReplyCode(caught.value.code)))[0].status_code == 400


def test_a_late_client_and_a_late_service_are_told_apart() -> None:
    late = handshake()
    late.receive_data(GET[:-1])
    assert response(late.reply(ReplyCode.TIMEOUT))[0].status_code == 408
    assert response(requested(GET).reply(ReplyCode.TIMEOUT))[0].status_code == 504


def test_ok_needs_a_request_and_nothing_follows_it() -> None:
    made = handshake()
    with pytest.raises(LocalProtocolError):
        made.reply(ReplyCode.OK)
    made = requested(GET)
    made.reply(ReplyCode.OK)
    assert made.state is State.ESTABLISHED
    for code in (ReplyCode.OK, ReplyCode.TIMEOUT):
        with pytest.raises(LocalProtocolError):
            made.reply(code)
    with pytest.raises(LocalProtocolError):
        made.receive_data(GET)


def test_a_rejected_request_stays_rejected() -> None:
    made = handshake()
    with pytest.raises(RemoteProtocolError):
        made.receive_data(b"GET / HTTP/1.1\r\n\r\n")
    with pytest.raises(LocalProtocolError):
        made.receive_data(GET)
    with pytest.raises(LocalProtocolError):
        made.reply(ReplyCode.OK)


LINES = st.one_of(
    st.sampled_from(
        [b"Host: http.cart.shop", b"Host: x", b"Content-Length: 3", b"Transfer-Encoding: chunked", b"", b" x", b"A:b"]
    ),
    st.sampled_from(
        [b"GET / HTTP/1.1", b"CONNECT http.cart.shop:1 HTTP/1.1", b"GET http://http.cart.shop/ HTTP/1.0", b"3", b"0"]
    ),
    st.binary(max_size=12),
)


@given(
    st.one_of(st.binary(min_size=1, max_size=300), st.lists(LINES, min_size=1, max_size=9).map(b"\r\n".join)),
    st.integers(1, 40),
)
def test_any_bytes_are_a_request_a_protocol_error_or_incomplete(data: bytes, size: int) -> None:
    made = handshake()
    parts = [data[at : at + size] for at in range(0, len(data), size)]
    try:
        while parts:
            if made.receive_data(parts.pop(0)) is not None:
                made.reply(ReplyCode.OK)
                for part in parts:
                    made.filter_data(part)
                return
    except RemoteProtocolError as error:
        code, text = ReplyCode(error.code), str(error)
        if made.state is State.ESTABLISHED:
            return
    else:
        code, text = ReplyCode.TIMEOUT, ""
    assert made.trailing_data == b""
    assert response(made.reply(code, text))[0].status_code >= 400
