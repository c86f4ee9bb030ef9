from __future__ import annotations

import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from meshless_handshake_v2.wire import (
    REPLY_FIELDS,
    REQUEST_FIELDS,
    decode_body,
    encode_notice,
    encode_reply,
    encode_request,
    fits_text,
    read_fields,
)

from meshless_core import HandshakeRequest, LocalProtocolError, RemoteProtocolError, ReplyCode, ReplyDetails, ServiceId

HTTP = ServiceId("http", "cart", "shop")
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
ID = bytes(range(16))

labels = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True)
hexadecimal = st.text("0123456789abcdef", min_size=1)
requests = st.builds(
    HandshakeRequest,
    st.builds(ServiceId, labels, labels, labels),
    sticky_key=st.none() | st.binary(min_size=1, max_size=64),
    version_pin=st.none() | st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?", fullmatch=True),
    timeout=st.none() | st.integers(1, 2**32 - 1).map(lambda milliseconds: milliseconds / 1000),
    traceparent=st.none()
    | st.builds(
        "{:02x}-{:032x}-{:016x}-{:02x}".format,
        *(st.integers(least, most) for least, most in ((0, 254), (1, 2**128 - 1), (1, 2**64 - 1), (0, 255))),
    ),
    accepts_descriptor=st.booleans(),
)


@given(requests)
@example(HandshakeRequest(ServiceId("http", "cart", "shop"), timeout=260.367))
def test_what_is_encoded_is_decoded_to_the_same(request_: HandshakeRequest) -> None:
    data = encode_request(request_)
    assert int.from_bytes(data[1:3], "big") == len(data) - 3 <= 4096
    assert decode_body(data, 3, len(data)) == request_


@given(st.binary(max_size=80))
def test_fields_are_read_or_refused_and_cover_the_bytes_exactly(data: bytes) -> None:
    found: dict[int, bytes] | None = None
    code: int | None = None
    try:
        found = read_fields(data, 0, len(data), REQUEST_FIELDS, ReplyCode.MALFORMED_REQUEST)
    except RemoteProtocolError as error:
        code = error.code
    if found is None:
        assert code == ReplyCode.MALFORMED_REQUEST
        return
    assert sum(3 + len(value) for value in found.values()) == len(data)
    for number in found.keys() & REQUEST_FIELDS.keys():
        assert REQUEST_FIELDS[number].smallest <= len(found[number]) <= REQUEST_FIELDS[number].largest


@given(st.text(max_size=400))
def test_a_text_is_cut_to_256_bytes_at_a_characters_end(text: str) -> None:
    data = fits_text(text)
    assert len(data) <= 256
    assert text.encode("utf-8").startswith(data)
    assert len(text.encode("utf-8")) <= 256 or len(data) > 252
    data.decode("utf-8")


def test_a_text_that_utf_8_cannot_say_is_said_all_the_same() -> None:
    assert fits_text("pod \udcff") == b"pod ?"


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        ({"timeout": 0.0}, "the deadline is 0 s; it has to be more than 0"),
        ({"timeout": float("nan")}, "the deadline is nan s"),
        ({"traceparent": TRACEPARENT.upper()}, "is not a traceparent as W3C Trace Context defines it"),
        ({"sticky_key": b""}, "the sticky key has 0 bytes instead of 1 to 64"),
        ({"sticky_key": b"k" * 65}, "the sticky key has 65 bytes instead of 1 to 64"),
        ({"version_pin": "v 2"}, "version pin 'v 2' is not the value of a version label"),
    ],
)
def test_a_wish_that_no_agent_would_accept_is_not_sent(wishes: dict, message: str) -> None:  # type: ignore[type-arg]  # keywords
    with pytest.raises(LocalProtocolError, match=message):
        encode_request(HandshakeRequest(HTTP, **wishes))


@pytest.mark.parametrize(
    ("seconds", "milliseconds"), [(0.0001, 1), (0.5, 500), (0.0015, 2), (1e9, 2**32 - 1), (float("inf"), 2**32 - 1)]
)
def test_a_deadline_is_rounded_up_to_what_the_wire_can_say(seconds: float, milliseconds: int) -> None:
    data = encode_request(HandshakeRequest(HTTP, timeout=seconds))
    assert int.from_bytes(data[-4:], "big") == milliseconds


def test_a_refusal_never_says_that_a_descriptor_follows() -> None:
    details = ReplyDetails(connection_id=ID, descriptor_follows=True)
    assert encode_reply(ReplyCode.TIMEOUT, "", details) == encode_reply(ReplyCode.TIMEOUT, "", ReplyDetails(connection_id=ID))
    assert encode_reply(ReplyCode.OK, "", details).endswith(b"\x96\x00\x00")


@pytest.mark.parametrize(
    ("details", "message"),
    [
        ({"connection_id": b"short"}, "the connection id has 5 bytes instead of 16"),
        ({"connection_id": ID, "version": "v" * 64}, "version 'v+' is not 1 to 63 bytes of ASCII"),
        ({"connection_id": ID, "endpoint": "shop/caf\u00e9"}, "endpoint 'shop/caf\u00e9' is not 3 to 317 bytes of ASCII"),
    ],
)
def test_a_detail_that_no_client_would_accept_is_not_sent(details: dict, message: str) -> None:  # type: ignore[type-arg]  # keywords
    with pytest.raises(LocalProtocolError, match=message):
        encode_reply(ReplyCode.OK, "", ReplyDetails(**details))


def test_a_pod_without_a_version_has_no_version_field() -> None:
    for version in (None, ""):
        data = encode_reply(ReplyCode.OK, "", ReplyDetails(connection_id=ID, version=version, endpoint="shop/cart-0"))
        assert set(read_fields(data, 4, len(data), REPLY_FIELDS, ReplyCode.INTERNAL_ERROR)) == {0x11, 0x13}


@given(st.sampled_from([1, 2]), st.text(string.printable, max_size=300))
def test_a_notice_says_its_size(kind: int, text: str) -> None:
    data = encode_notice(kind, text)
    assert data[0] == kind
    assert int.from_bytes(data[1:3], "big") == len(data) - 3 <= 256
