"""The session: which frame when, in any pieces, and never anything but events or a violation."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from meshless_core.errors import LocalProtocolError, RemoteProtocolError
from meshless_core.tunnel import (
    HEADER_BYTES,
    MAX_DATA_BYTES,
    End,
    Fin,
    FrameType,
    Gone,
    OpenReply,
    OpenRequest,
    Reset,
    ResetCode,
    State,
    TunnelSession,
)
from meshless_core.tunnel.frames import encode_end, encode_fin, encode_gone, encode_open, encode_reply, encode_reset
from meshless_core.tunnel.session import STEPS
from meshless_core.types import PodRef, ReplyCode, ServiceId

VECTORS = json.loads((Path(__file__).parents[2] / "protocol" / "vectors" / "tunnel-v1.json").read_text())
REQUEST = OpenRequest(
    connection_id=bytes(range(16)),
    service=ServiceId("http", "cart", "shop"),
    pod=PodRef("shop", "cart-1"),
    pod_uid="uid-1",
    deadline_ms=5000,
)
OK = OpenReply(ReplyCode.OK)


def data_frame(session, payload):
    buffer = bytearray(HEADER_BYTES) + payload
    return bytes(buffer[: session.frame_data(memoryview(buffer), len(payload))])


def feed(session, raw, sizes=None):
    """Events for `raw` in pieces; neighbouring payload is joined, so that every split gives the same."""
    events: list[Any] = []
    at = 0
    for size in sizes or [len(raw)]:
        for event in session.receive(memoryview(bytes(raw[at : at + size]))):
            if isinstance(event, memoryview) and events and isinstance(events[-1], bytes):
                events[-1] += bytes(event)
            else:
                events.append(bytes(event) if isinstance(event, memoryview) else event)
        at += size
    return events


def describe(event):
    match event:
        case bytes():
            return {"event": "data", "payload": event.hex()}
        case OpenRequest():
            return {
                "event": "open",
                "connection_id": event.connection_id.hex(),
                "service": str(event.service),
                "pod": str(event.pod),
                "pod_uid": event.pod_uid,
                "version": event.version,
                "source_pod": None if event.source_pod is None else str(event.source_pod),
                "deadline_ms": event.deadline_ms,
                "traceparent": event.traceparent,
            }
        case OpenReply(code, reason):
            return {"event": "reply", "code": int(code), "reason": reason}
        case Reset(code, reason):
            return {"event": "reset", "code": int(code), "reason": reason}
        case Fin():
            return {"event": "fin"}
        case Gone():
            return {"event": "gone"}
        case End():
            return {"event": "end"}
    raise AssertionError(event)


def prepare(vector):
    """A session of the vector's role, brought to where the vector begins."""
    session = TunnelSession(vector["role"])
    for step in vector["after"]:
        match step:
            case {"receive": raw}:
                feed(session, bytes.fromhex(raw))
            case {"send": "open"}:
                session.open(REQUEST)
            case {"send": "opened"}:
                session.reply(OK)
            case {"send": "fin"}:
                session.fin()
            case {"send": "gone"}:
                session.gone()
            case {"send": "end"}:
                session.end()
    return session


def splits(size):
    rng = random.Random(size)
    yield [size]
    yield [1] * size
    for _ in range(20):
        left, sizes = size, []
        while left:
            sizes.append(rng.randint(1, min(left, 40)))
            left -= sizes[-1]
        yield sizes


@pytest.mark.parametrize("vector", VECTORS["vectors"], ids=lambda vector: vector["name"])
def test_vector_whole_byte_by_byte_and_at_random_splits(vector):
    raw = bytes.fromhex(vector["bytes"])
    for sizes in splits(len(raw)):
        session = prepare(vector)
        if "violation" in vector:
            with pytest.raises(RemoteProtocolError) as caught:
                feed(session, raw, sizes)
            assert int(caught.value.code) == vector["violation"]
            assert session.local_state is State.DEAD
        else:
            assert [describe(event) for event in feed(session, raw, sizes)] == vector["events"]
            assert [session.local_state.value, session.peer_state.value] == vector["states"]


def test_the_vectors_cover_every_frame_and_both_roles():
    seen = {bytes.fromhex(vector["bytes"])[0] for vector in VECTORS["vectors"]}
    assert {int(kind) for kind in FrameType} <= seen
    assert {vector["role"] for vector in VECTORS["vectors"]} == {"client", "server"}


def opened():
    client, server = TunnelSession("client"), TunnelSession("server")
    assert feed(server, client.open(REQUEST)) == [REQUEST]
    assert feed(client, server.reply(OK)) == [OK]
    return client, server


def test_a_session_carries_connection_after_connection():
    client, server = TunnelSession("client"), TunnelSession("server")
    for _ in range(3):
        assert client.idle
        assert server.idle
        feed(server, client.open(REQUEST))
        feed(client, server.reply(OK))
        assert feed(server, data_frame(client, b"question")) == [b"question"]
        assert feed(server, client.fin()) == [Fin()]
        assert feed(client, data_frame(server, b"answer") + server.fin() + server.end()) == [b"answer", Fin(), End()]
        assert feed(server, client.end()) == [End()]
    assert client.idle
    assert server.idle


def test_a_refusal_leaves_both_sides_idle():
    client, server = TunnelSession("client"), TunnelSession("server")
    feed(server, client.open(REQUEST))
    refusal = OpenReply(ReplyCode.CONNECTION_LIMIT, "full")
    assert feed(client, server.reply(refusal)) == [refusal]
    assert client.idle
    assert server.idle


def test_end_before_the_other_partys_fin_is_not_allowed():
    client, _server = opened()
    client.fin()
    with pytest.raises(LocalProtocolError, match="END"):
        client.end()
    with pytest.raises(RemoteProtocolError, match="END"):
        feed(opened()[1], encode_fin() + encode_end())


def test_nothing_is_read_behind_a_reset():
    client, _server = opened()
    assert feed(client, encode_reset(ResetCode.ABORTED, "policy") + b"garbage") == [Reset(ResetCode.ABORTED, "policy")]
    with pytest.raises(RemoteProtocolError):
        feed(client, b"\4")


def test_a_violation_is_met_on_the_first_byte_before_anything_is_buffered():
    with pytest.raises(RemoteProtocolError, match="sent DATA while idle"):
        TunnelSession("client").receive(memoryview(b"\4"))


def test_a_session_with_half_a_frame_is_not_idle():
    server = TunnelSession("server")
    feed(server, encode_open(REQUEST)[:9])
    assert not server.idle


def test_an_unknown_ignorable_frame_of_any_size_is_skipped_without_being_kept():
    client, _server = opened()
    skipped = b"\xf0" + (4096).to_bytes(3, "big") + b"\4" * 4096
    for sizes in ([len(skipped) + 5], [1] * (len(skipped) + 5), [4, 2000, 2101]):
        assert feed(client, skipped + b"\4\0\0\1x", sizes) == [b"x"]
    assert not client._partial


@pytest.mark.parametrize("size", [0, MAX_DATA_BYTES + 1, 0xFFFFFF])
def test_a_data_frame_out_of_range_is_a_violation(size):
    client, _server = opened()
    with pytest.raises(RemoteProtocolError, match="DATA frame of"):
        feed(client, b"\4" + size.to_bytes(3, "big"))


def test_payload_is_handed_on_without_being_copied():
    client, server = opened()
    raw = memoryview(data_frame(server, b"payload"))
    (view,) = client.receive(raw)
    assert view.obj is raw.obj


@pytest.mark.parametrize("size", [0, MAX_DATA_BYTES + 1])
def test_data_of_a_size_that_cannot_be_sent_is_an_error_of_ours(size):
    client, _server = opened()
    with pytest.raises(LocalProtocolError, match="DATA"):
        client.frame_data(memoryview(bytearray(MAX_DATA_BYTES + 8)), size)


def test_a_second_reset_is_no_bytes_and_nothing_comes_after_the_first():
    client = TunnelSession("client")
    assert client.reset(ResetCode.ABORTED, "x")
    assert client.reset(ResetCode.ABORTED, "x") == b""
    with pytest.raises(LocalProtocolError):
        client.open(REQUEST)


@settings(deadline=None)
@given(st.sampled_from(["client", "server"]), st.lists(st.binary(max_size=80), max_size=8))
def test_any_bytes_are_events_or_a_violation(role, pieces):
    session = TunnelSession(role)
    if role == "client":
        session.open(REQUEST)
    try:
        for piece in pieces:
            feed(session, piece)
    except RemoteProtocolError:
        assert session.local_state is State.DEAD


FRAMES = {
    FrameType.OPEN: encode_open(REQUEST),
    FrameType.OPENED: encode_reply(OK),
    FrameType.REFUSED: encode_reply(OpenReply(ReplyCode.TIMEOUT, "x")),
    FrameType.DATA: b"\4\0\0\1x",
    FrameType.FIN: encode_fin(),
    FrameType.END: encode_end(),
    FrameType.RESET: encode_reset(ResetCode.RESET, "x"),
    FrameType.GONE: encode_gone(),
}


class TwoSides(RuleBasedStateMachine):
    """Two sides that obey the table stay in step; any frame the table does not list is refused by both."""

    def __init__(self):
        super().__init__()
        self.client, self.server = TunnelSession("client"), TunnelSession("server")
        self.wire = {"client": b"", "server": b""}

    def say(self, side, kind):
        match kind:
            case FrameType.OPEN:
                return side.open(REQUEST)
            case FrameType.OPENED:
                return side.reply(OK)
            case FrameType.REFUSED:
                return side.reply(OpenReply(ReplyCode.TIMEOUT, "x"))
            case FrameType.DATA:
                return data_frame(side, b"x")
            case FrameType.FIN:
                return side.fin()
            case FrameType.GONE:
                return side.gone()
            case FrameType.END:
                return side.end()
        return side.reset(ResetCode.RESET, "x")

    @rule(who=st.sampled_from(["client", "server"]), kind=st.sampled_from(list(FrameType)))
    def send(self, who, kind):
        side = getattr(self, who)
        before = side.local_state
        listed = kind in STEPS[who][before]
        try:
            raw = self.say(side, kind)
        except LocalProtocolError:
            assert not listed or kind is FrameType.END
            assert side.local_state is before
        else:
            assert listed or kind is FrameType.RESET
            self.wire[who] += raw

    @rule(who=st.sampled_from(["client", "server"]), data=st.data())
    def receive(self, who, data):
        sender = "server" if who == "client" else "client"
        count = data.draw(st.integers(0, len(self.wire[sender])))
        side = getattr(self, who)
        raw, self.wire[sender] = self.wire[sender][:count], self.wire[sender][count:]
        if side.local_state is State.DEAD:
            return  # the stream is closed: nobody reads
        feed(side, raw)  # what an obedient side sends is never a violation

    @precondition(lambda self: not any(self.wire.values()))
    @invariant()
    def both_agree_when_nothing_is_under_way(self):
        mine = self.client.local_state, self.client.peer_state
        theirs = self.server.peer_state, self.server.local_state
        if State.DEAD not in (*mine, *theirs):
            assert mine == theirs


TwoSides.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
test_two_sides_that_obey_the_table_stay_in_step = TwoSides.TestCase


@pytest.mark.parametrize("role", ["client", "server"])
@pytest.mark.parametrize("kind", FrameType)
def test_every_frame_the_table_does_not_list_is_a_violation(role, kind):
    """From the state both sides are in after opening; the listed ones are events."""
    client, server = opened()
    side = client if role == "client" else server
    if kind in STEPS[side.peer][State.TALKING]:
        assert feed(side, FRAMES[kind])
    else:
        with pytest.raises(RemoteProtocolError, match=kind.name):
            feed(side, FRAMES[kind])
