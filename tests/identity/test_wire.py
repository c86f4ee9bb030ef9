from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshless_core.errors import LocalProtocolError, RemoteProtocolError
from meshless_core.identity import wire
from meshless_core.types import Identity

IDENTITY = Identity("mesh.test", "shop", "cart")
MESSAGES: list[wire.Request | wire.Reply] = [
    wire.IssueRequest(IDENTITY, "csr"),
    wire.WatchRequest(),
    wire.IssueReply("chain", "bundle"),
    wire.BundleReply("bundle"),
    wire.ErrorReply(wire.IssuerCode.DENIED, "no"),
]


def decode(message: wire.Request | wire.Reply, payload: bytes) -> object:
    is_request = isinstance(message, wire.IssueRequest | wire.WatchRequest)
    return wire.decode_request(payload) if is_request else wire.decode_reply(payload)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
@given(data=st.data())
def test_a_message_survives_any_split(message: wire.Request | wire.Reply, data: st.DataObject) -> None:
    stream = wire.encode(message) * 2
    reader = wire.FrameReader(wire.MAX_REPLY_BYTES)
    found = []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        reader.receive_data(stream[:size])
        stream = stream[size:]
        while (payload := reader.next_payload()) is not None:
            found.append(decode(message, payload))
    assert found == [message, message]


@given(st.binary(max_size=300))
def test_any_payload_is_a_message_or_a_protocol_error(payload: bytes) -> None:
    for read in (wire.decode_request, wire.decode_reply):
        try:
            found = read(payload)
        except RemoteProtocolError as error:
            refused: int | type = error.code
        else:
            refused = type(found)
        assert refused in {wire.IssuerCode.MALFORMED, *(type(message) for message in MESSAGES)}


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20), lambda inner: st.lists(inner, max_size=3)
)


@given(
    st.dictionaries(st.sampled_from(["version", "op", "identity", "request", "chain", "bundle", "code", "text", "x"]), _json),
    st.sampled_from(["issue", "watch", "issued", "bundle", "error", "?"]),
)
def test_any_json_object_is_a_message_or_a_protocol_error(fields: dict[str, object], op: str) -> None:
    payload = json.dumps({**fields, "version": 1, "op": op}).encode()
    for read in (wire.decode_request, wire.decode_reply):
        try:
            read(payload)
        except RemoteProtocolError:
            continue


@given(st.lists(st.binary(max_size=50), max_size=20))
def test_any_stream_is_frames_or_a_protocol_error_and_memory_is_bounded(chunks: list[bytes]) -> None:
    reader = wire.FrameReader(100)
    for chunk in chunks:
        try:
            assert reader.wanted > 0
            reader.receive_data(chunk[: reader.wanted])
            payload = reader.next_payload()
        except RemoteProtocolError:
            return
        assert payload is None or 0 < len(payload) <= 100
        assert len(reader._buffer) <= 104


@pytest.mark.parametrize(
    "payload",
    [
        b"[" * 16000,
        b'{"version": 1, "op": "watch", "op": "issue"}',
        b'{"version": 2, "op": "watch"}',
        b'{"version": 1, "op": "watch", "more": ""}',
        b'{"version": 1, "op": "issue", "identity": "spiffe://mesh.test/ns/Shop/meshlet/cart", "request": ""}',
        b'{"version": 1, "op": "issue", "identity": "spiffe://mesh.test/ns/shop/meshlet/cart", "request": 1}',
        b'{"version": 1, "op": {}}',
        b"null",
        b"\xff",
    ],
)
def test_requests_that_look_almost_right_are_refused(payload: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        wire.decode_request(payload)


@pytest.mark.parametrize("length", [0, wire.MAX_REQUEST_BYTES + 1, 2**32 - 1])
def test_an_impossible_length_is_refused_before_anything_is_read(length: int) -> None:
    reader = wire.FrameReader(wire.MAX_REQUEST_BYTES)
    reader.receive_data(length.to_bytes(4, "big"))
    with pytest.raises(RemoteProtocolError, match="was announced"):
        reader.next_payload()


def test_a_message_too_large_to_send_is_our_own_mistake() -> None:
    with pytest.raises(LocalProtocolError):
        wire.encode(wire.IssueRequest(IDENTITY, "x" * wire.MAX_REQUEST_BYTES))


def test_an_unknown_code_is_an_internal_error() -> None:
    reply = wire.decode_reply(b'{"version": 1, "op": "error", "code": 99, "text": "?"}')
    assert reply == wire.ErrorReply(wire.IssuerCode.INTERNAL, "?")
