from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshless_core.documents import PodPlacement
from meshless_core.errors import SocketDirectoryError
from meshless_core.socketd import protocol
from meshless_core.types import MeshletRef, PodRef

MESSAGES = [
    protocol.Hello(1, "node-a"),
    protocol.PodAdded(PodPlacement(PodRef("shop", "web-0"), "u1", MeshletRef("shop", "web"), "v1")),
    protocol.PodAdded(PodPlacement(PodRef("shop", "web.x-0"), "u2", None, None)),
    protocol.SnapshotSent(),
    protocol.PodRemoved("u1"),
    protocol.Ack(""),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_every_message_survives_the_wire(message: protocol.Message) -> None:
    assert protocol.decode(protocol.encode(message)) == message


@pytest.mark.parametrize(
    ("packet", "what"),
    [
        (b"", "not JSON"),
        (b"[]", "not an object"),
        (b'{"type":"x"}', "unknown message type"),
        (b'{"type":"hello","version":"1","node":"a"}', "integer version"),
        (b'{"type":"pod","namespace":"../x","name":"a","uid":"1"}', "namespace"),
        (b'{"type":"pod","namespace":"a","name":"../../etc","uid":"1"}', "name"),
        (b'{"type":"removed"}', "uid"),
    ],
)
def test_a_broken_message_is_named(packet: bytes, what: str) -> None:
    with pytest.raises(SocketDirectoryError, match=what):
        protocol.decode(packet)


@given(
    st.binary(max_size=200)
    | st.dictionaries(st.sampled_from(["type", "uid", "name", "version"]), st.text() | st.integers()).map(
        lambda fields: json.dumps(fields).encode()
    )
)
def test_any_packet_is_a_message_or_an_error(packet: bytes) -> None:
    try:
        message = protocol.decode(packet)
    except SocketDirectoryError:
        return
    assert isinstance(message, protocol.Message)
