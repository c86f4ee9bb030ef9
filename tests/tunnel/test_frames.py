"""Frames and fields: what goes in comes out, what is not allowed is named."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshless_core.errors import LocalProtocolError, RemoteProtocolError
from meshless_core.tunnel import End, Fin, FrameType, Gone, OpenReply, OpenRequest, Reset, ResetCode
from meshless_core.tunnel.frames import (
    HEADER_BYTES,
    MAX_CONTROL_BYTES,
    MAX_DATA_BYTES,
    decode_control,
    encode_end,
    encode_fin,
    encode_open,
    encode_reply,
    encode_reset,
)
from meshless_core.types import PodRef, ReplyCode, ServiceId

label = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
token = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=200)
pods = st.builds(PodRef, label, st.lists(label, min_size=1, max_size=3).map(".".join))
requests = st.builds(
    OpenRequest,
    connection_id=st.binary(min_size=16, max_size=16),
    service=st.builds(ServiceId, label, label, label),
    pod=pods,
    pod_uid=token,
    version=st.none() | token,
    source_pod=st.none() | pods,
    deadline_ms=st.integers(1, 2**32 - 1),
    traceparent=st.none() | token,
)

PLAIN = OpenRequest(
    connection_id=bytes(16),
    service=ServiceId("http", "cart", "shop"),
    pod=PodRef("shop", "cart-1"),
    pod_uid="uid",
    deadline_ms=1,
)


def decode(frame):
    assert len(frame) == HEADER_BYTES + int.from_bytes(frame[1:4], "big")
    return decode_control(FrameType(frame[0]), frame[4:])


def outcome(kind, payload):
    """The event, or the code of the violation. Anything else that is raised fails the test."""
    try:
        return decode_control(kind, payload)
    except RemoteProtocolError as error:
        return error.code


@given(requests)
def test_a_request_survives_the_wire(request):
    assert decode(encode_open(request)) == request


@given(st.sampled_from(ReplyCode), st.text(max_size=600))
def test_a_reply_survives_the_wire_with_its_reason_cut(code, reason):
    reply = decode(encode_reply(OpenReply(code, reason)))
    assert reply.code is code
    expected = "" if code is ReplyCode.OK else reason[:256].encode(errors="replace").decode()
    assert reply.reason == expected


@given(st.sampled_from(ResetCode), st.text(max_size=600))
def test_a_reset_survives_the_wire_with_its_reason_cut(code, reason):
    assert decode(encode_reset(code, reason)) == Reset(code, reason[:256].encode(errors="replace").decode())


def test_fin_and_end_are_four_bytes():
    assert (encode_fin(), encode_end()) == (b"\5\0\0\0", b"\6\0\0\0")
    assert (decode(encode_fin()), decode(encode_end())) == (Fin(), End())


def test_the_largest_data_frame_fills_tls_records_exactly():
    assert (MAX_DATA_BYTES + HEADER_BYTES) % 16384 == 0


@given(st.sampled_from([kind for kind in FrameType if kind is not FrameType.DATA]), st.binary(max_size=300))
def test_any_payload_is_an_event_or_a_violation(kind, payload):
    assert isinstance(outcome(kind, payload), OpenRequest | OpenReply | Fin | Gone | End | Reset | ResetCode)


@given(requests, st.data())
def test_a_damaged_request_is_an_event_or_a_violation(request, data):
    payload = bytearray(encode_open(request)[4:])
    for _ in range(data.draw(st.integers(1, 3))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(payload[: data.draw(st.integers(0, len(payload)))])
    assert isinstance(outcome(FrameType.OPEN, damaged), OpenRequest | ResetCode)


def field(tag, value):
    return bytes((tag,)) + len(value).to_bytes(2, "big") + value


def test_an_unknown_ignorable_field_is_ignored_and_an_unknown_critical_one_is_not():
    payload = encode_open(PLAIN)[4:]
    assert decode_control(FrameType.OPEN, payload + field(0xFE, b"news")) == PLAIN
    with pytest.raises(RemoteProtocolError, match="unknown field 0x7e"):
        decode_control(FrameType.OPEN, payload + field(0x7E, b"news"))
    assert decode_control(FrameType.OPENED, field(0xFE, b"")) == OpenReply(ReplyCode.OK)


@pytest.mark.parametrize(
    ("extra", "what"),
    [
        (field(0x02, b"http.cart.shop"), "twice"),
        (b"\x88", "ends inside a field's header"),
        (b"\x88\0\5ab", "ends inside field 0x88"),
        (field(0x88, b""), "TRACEPARENT is empty"),
        (field(0x88, b"line\nbreak"), "not printable"),
        (field(0x88, b"\xff"), "not UTF-8"),
        (field(0x88, b"x" * 1025), "at most 1024"),
        (field(0x87, b"nonamespace"), "not <namespace>/<pod>"),
        (field(0x87, b"shop/UPPER"), "not <namespace>/<pod>"),
        (field(0x05, b""), "VERSION is empty"),
    ],
)
def test_a_bad_field_is_named(extra, what):
    with pytest.raises(RemoteProtocolError, match=what):
        decode_control(FrameType.OPEN, encode_open(PLAIN)[4:] + extra)


def test_another_tunnel_version_is_answered_with_its_own_code():
    with pytest.raises(RemoteProtocolError, match="version 2 is not spoken") as caught:
        decode_control(FrameType.OPEN, b"\2" + encode_open(PLAIN)[5:])
    assert caught.value.code is ResetCode.UNSUPPORTED_VERSION


@pytest.mark.parametrize("tag", [1, 2, 3, 4, 6])
def test_a_missing_field_is_named(tag):
    payload, kept, at = encode_open(PLAIN)[4:], b"\1", 1
    while at < len(payload):
        size = 3 + int.from_bytes(payload[at + 1 : at + 3], "big")
        if payload[at] != tag:
            kept += payload[at : at + size]
        at += size
    with pytest.raises(RemoteProtocolError, match="without field"):
        decode_control(FrameType.OPEN, kept)


def test_codes_this_side_does_not_know_are_read_as_the_general_one():
    assert decode_control(FrameType.REFUSED, b"\xc8news") == OpenReply(ReplyCode.INTERNAL_ERROR, "news")
    assert decode_control(FrameType.RESET, b"\xc8news") == Reset(ResetCode.RESET, "news")


@pytest.mark.parametrize(
    ("kind", "payload", "what"),
    [
        (FrameType.REFUSED, b"", "without a code"),
        (FrameType.REFUSED, b"\0", "code OK"),
        (FrameType.RESET, b"", "without a code"),
        (FrameType.RESET, b"\1" + b"x" * 1025, "at most 1024"),
        (FrameType.RESET, b"\1\xff", "not UTF-8"),
        (FrameType.FIN, b"x", "has none"),
        (FrameType.END, b"x", "has none"),
        (FrameType.GONE, b"x", "has none"),
        (FrameType.OPEN, b"", "without a version"),
    ],
)
def test_a_bad_control_frame_is_named(kind, payload, what):
    with pytest.raises(RemoteProtocolError, match=what):
        decode_control(kind, payload)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"connection_id": b"short"}, "16 bytes"),
        ({"deadline_ms": 0}, "milliseconds"),
        ({"deadline_ms": 2**32}, "milliseconds"),
        ({"pod_uid": ""}, "POD_UID"),
        ({"traceparent": "x" * 1025}, "TRACEPARENT"),
    ],
)
def test_a_request_that_cannot_be_said_is_an_error_of_ours(change, what):
    import attrs

    with pytest.raises(LocalProtocolError, match=what):
        encode_open(attrs.evolve(PLAIN, **change))


def test_a_control_frame_fits_its_bound_at_the_most():
    import attrs

    longest = "x" * 1000
    request = attrs.evolve(PLAIN, pod_uid=longest, version=longest, traceparent=longest)
    assert len(encode_open(request)) < MAX_CONTROL_BYTES
