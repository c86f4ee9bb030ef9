from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from meshless_handshake_socks5.codes import REPLIES, SocksReply
from meshless_handshake_socks5.handshake import Socks5Handshake, State

from meshless_core import HandshakeRequest, LocalProtocolError, RemoteProtocolError, ReplyCode, ServiceId
from meshless_core.testing.handshake import check_handshake

GREETING = b"\x05\x01\x00"
SELECTED = b"\x05\x00"
BOUND = b"\x00\x01\x00\x00\x00\x00\x00\x00"


def connect(name: bytes = b"http.cart.shop", port: int = 80) -> bytes:
    return b"\x05\x01\x00\x03" + bytes([len(name)]) + name + port.to_bytes(2, "big")


def greeted() -> Socks5Handshake:
    handshake = Socks5Handshake()
    assert handshake.receive_data(GREETING) is None
    assert handshake.data_to_send() == SELECTED
    return handshake


def refusal(handshake: Socks5Handshake, data: bytes) -> bytes:
    """What a client is told whose bytes are no request."""
    with pytest.raises(RemoteProtocolError) as caught:
        handshake.receive_data(data)
    assert caught.value.code == ReplyCode.MALFORMED_REQUEST
    return handshake.reply(ReplyCode(caught.value.code), str(caught.value))


def test_keeps_the_contract_of_handshakes() -> None:
    http = HandshakeRequest(ServiceId("http", "cart", "shop"))
    examples = [
        (GREETING + connect(), http, b""),
        (b"\x05\x02\x02\x00" + connect(b"HTTP.cart.shop.", 443) + b"\x16\x03\x01", http, b"\x16\x03\x01"),
    ]
    check_handshake(Socks5Handshake, examples, most=2 + 255 + 4 + 1 + 255 + 2)


def test_the_method_is_answered_before_the_request_and_once() -> None:
    handshake = Socks5Handshake()
    assert handshake.data_to_send() == b""
    assert handshake.receive_data(b"\x05\x02\x02") is None
    assert handshake.data_to_send() == b""
    assert handshake.receive_data(b"\x00") is None
    assert handshake.data_to_send() == SELECTED
    assert handshake.data_to_send() == b""


def test_a_request_names_the_service_and_ok_is_succeeded() -> None:
    handshake = greeted()
    request = handshake.receive_data(connect())
    assert request is not None
    assert str(request.service_id) == "http.cart.shop"
    assert handshake.reply(ReplyCode.OK) == b"\x05\x00" + BOUND
    assert handshake.state is State.ESTABLISHED


def test_a_client_that_does_not_wait_gets_the_method_with_the_reply() -> None:
    handshake = Socks5Handshake()
    assert handshake.receive_data(GREETING + connect() + b"GET /") is not None
    assert handshake.trailing_data == b"GET /"
    assert handshake.reply(ReplyCode.OK) == SELECTED + b"\x05\x00" + BOUND


@pytest.mark.parametrize("name", [b"http.cart.shop", b"HTTP.Cart.SHOP", b"http.cart.shop."])
def test_case_and_a_final_dot_do_not_matter(name: bytes) -> None:
    request = greeted().receive_data(connect(name))
    assert request is not None
    assert str(request.service_id) == "http.cart.shop"


@pytest.mark.parametrize("port", [0, 80, 65535])
def test_any_port_will_do(port: int) -> None:
    assert greeted().receive_data(connect(port=port)) is not None


@pytest.mark.parametrize(
    "name",
    [b"", b".", b"example.com", b"http.cart.shop..", b".http.cart.shop", b"http.cart.shop\x00", b"a" * 255, b"\xffhttp.a.b"],
)
def test_a_name_that_is_no_service_id_is_an_unreachable_host(name: bytes) -> None:
    assert refusal(greeted(), connect(name)) == b"\x05\x04" + BOUND


@pytest.mark.parametrize(
    ("request_head", "reply"),
    [
        pytest.param(b"\x05\x02\x00\x03", SocksReply.COMMAND_NOT_SUPPORTED, id="BIND"),
        pytest.param(b"\x05\x03\x00\x01", SocksReply.COMMAND_NOT_SUPPORTED, id="UDP ASSOCIATE"),
        pytest.param(b"\x05\x00\x00\x03", SocksReply.COMMAND_NOT_SUPPORTED, id="no such command"),
        pytest.param(b"\x05\x01\x00\x01", SocksReply.ADDRESS_TYPE_NOT_SUPPORTED, id="IPv4"),
        pytest.param(b"\x05\x01\x00\x04", SocksReply.ADDRESS_TYPE_NOT_SUPPORTED, id="IPv6"),
        pytest.param(b"\x05\x01\x00\x02", SocksReply.ADDRESS_TYPE_NOT_SUPPORTED, id="no such address type"),
        pytest.param(b"\x05\x01\x01\x03", SocksReply.GENERAL_FAILURE, id="reserved byte"),
        pytest.param(b"\x04", SocksReply.GENERAL_FAILURE, id="version 4 in the request"),
    ],
)
def test_what_is_not_supported_is_told_apart(request_head: bytes, reply: SocksReply) -> None:
    assert refusal(greeted(), request_head) == bytes((5, reply)) + BOUND


@pytest.mark.parametrize("methods", [b"\x05\x00", b"\x05\x01\x02", b"\x05\x02\x01\x02", b"\x05\x01\xff"])
def test_without_the_method_no_authentication_none_is_acceptable(methods: bytes) -> None:
    assert refusal(Socks5Handshake(), methods) == b"\x05\xff"


@pytest.mark.parametrize(
    ("before", "told"),
    [
        (b"", b"\x05\xff"),
        (b"\x05", b"\x05\xff"),
        (b"\x05\x02\x00", b"\x05\xff"),
        (GREETING, SELECTED + b"\x05\x01" + BOUND),
        (GREETING + connect()[:-1], SELECTED + b"\x05\x01" + BOUND),
    ],
)
def test_an_end_of_file_before_the_request_is_complete_is_answered(before: bytes, told: bytes) -> None:
    handshake = Socks5Handshake()
    if before:
        assert handshake.receive_data(before) is None
    assert refusal(handshake, b"") == told


@pytest.mark.parametrize("code", [code for code in ReplyCode if code is not ReplyCode.OK])
@pytest.mark.parametrize("before", [b"", GREETING, GREETING + connect()])
def test_every_refusal_can_be_said_at_any_time_before_ok(code: ReplyCode, before: bytes) -> None:
    handshake = Socks5Handshake()
    if before:
        handshake.receive_data(before)
    expected = SELECTED + bytes((5, REPLIES[code])) + BOUND if before else b"\x05\xff"
    assert handshake.reply(code) == expected
    assert handshake.reply(code) == expected.removeprefix(SELECTED)


def test_ok_needs_a_request_and_nothing_follows_it() -> None:
    handshake = greeted()
    with pytest.raises(LocalProtocolError):
        handshake.reply(ReplyCode.OK)
    handshake.receive_data(connect())
    handshake.reply(ReplyCode.OK)
    for code in (ReplyCode.OK, ReplyCode.TIMEOUT):
        with pytest.raises(LocalProtocolError):
            handshake.reply(code)


def test_a_rejected_handshake_takes_no_more_data_and_no_ok() -> None:
    handshake = greeted()
    refusal(handshake, b"\x05\x02\x00\x03")
    with pytest.raises(LocalProtocolError):
        handshake.receive_data(b"x")
    with pytest.raises(LocalProtocolError):
        handshake.reply(ReplyCode.OK)


def run(parts: list[bytes]) -> tuple[object, bytes, bytes]:
    """Outcome, everything sent with a refusal or an OK behind it, and the application's bytes."""
    handshake = Socks5Handshake()
    sent = b""
    for index, part in enumerate(parts):
        try:
            request = handshake.receive_data(part)
        except RemoteProtocolError as error:
            return "refused", sent + handshake.reply(ReplyCode(error.code)), b""
        sent += handshake.data_to_send()
        if request is not None:
            assert isinstance(request, HandshakeRequest)
            return request, sent + handshake.reply(ReplyCode.OK), handshake.trailing_data + b"".join(parts[index + 1 :])
    return None, sent, b""


PIECES = st.sampled_from(
    [GREETING, b"\x05\x02\x02\x00", b"\x05\x01\x00", connect(), connect(b"x"), b"\x05\x01\x00\x01", b"\x05", b"\x00"]
)


@given(
    st.one_of(st.binary(max_size=600), st.lists(st.one_of(PIECES, st.binary(max_size=8)), max_size=6).map(b"".join)), st.data()
)
def test_any_bytes_are_a_request_a_refusal_or_incomplete_however_they_are_split(data: bytes, draw: st.DataObject) -> None:
    if not data:
        return
    cuts = sorted(draw.draw(st.sets(st.integers(1, max(1, len(data) - 1)), max_size=8)))
    parts = [part for part in (data[i:j] for i, j in zip([0, *cuts], [*cuts, len(data)], strict=True)) if part]
    assert run([data]) == run(parts) == run([data[i : i + 1] for i in range(len(data))])
