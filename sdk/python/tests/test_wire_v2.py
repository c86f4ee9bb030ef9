from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from meshless_sdk.errors import AgentUnavailable, ConnectError, InvalidArgument, InvalidServiceId, ProtocolError
from meshless_sdk.wire_v2 import ExtendedReply, Notices, encode_extended_request

FILE = Path(__file__).parents[3] / "protocol" / "vectors" / "handshake-v2.json"
VECTORS: dict[str, Any] = json.loads(FILE.read_text("utf-8"))
CLIENT: list[dict[str, Any]] = VECTORS["client"]
LEASES: list[dict[str, Any]] = VECTORS["leases"]


def joined(parts: list[str]) -> bytes:
    return b"".join(map(bytes.fromhex, parts))


def encoded(vector: dict[str, Any]) -> bytes:
    wishes = dict(vector["wishes"])
    if "deadline_ms" in wishes:
        wishes["deadline"] = wishes.pop("deadline_ms") / 1000
    if "sticky_key" in wishes:
        wishes["sticky_key"] = bytes.fromhex(wishes["sticky_key"])
    return encode_extended_request(vector["service_id"], **wishes)


def told(reply: ExtendedReply) -> tuple[dict[str, Any], str]:
    values = ((name, getattr(reply.details, name)) for name in reply.details.__slots__)
    known: dict[str, Any] = {name: value for name, value in values if value or (value == 0.0 and value is not False)}
    if "retry_after" in known:
        known["retry_after_ms"] = round(known.pop("retry_after") * 1000)
    return known, known.pop("text", "")


def run(vector: dict[str, Any], sizes: list[int]) -> tuple[dict[str, Any], int | str | None]:
    """Read the reply as a socket would give it, `sizes` bytes at a time at most, never more than wanted."""
    reply = ExtendedReply(vector["service_id"], accepts_descriptor="accepts_descriptor" in vector["wishes"])
    wire, taken, turn = joined(vector["reply"]), 0, 0
    while reply.wanted:
        part = wire[taken : taken + min(reply.wanted, sizes[turn % len(sizes)])]
        if not part and not vector["eof"]:
            return {"event": "incomplete"}, None
        taken, turn = taken + len(part), turn + 1
        after = taken if part else "eof"
        try:
            reply.receive_data(part)
        except ConnectError as error:
            details, text = told(reply)
            said = {"connection_id": error.connection_id, "text": error.text}
            assert said == {"connection_id": details.get("connection_id", ""), "text": text}
            version = 1 if reply.is_version_1 else 2
            return {"event": "refused", "code": error.code, "details": details, "text": text, "version": version}, after
        except ProtocolError:
            return {"event": "protocol_error"}, after
        except AgentUnavailable:
            return {"event": "closed"}, after
    details, text = told(reply)
    return {"event": "established", "details": details, "text": text, "trailing": wire[taken:].hex()}, taken


@pytest.mark.parametrize("vector", CLIENT, ids=lambda vector: str(vector["name"]))
def test_every_vector_holds_whole_and_byte_by_byte(vector: dict[str, Any]) -> None:
    assert encoded(vector) == joined(vector["request"])
    assert run(vector, [10_000])[0] == vector["expect"]
    assert run(vector, [1]) == (vector["expect"], vector["verdict_after"])


@given(st.sampled_from(CLIENT), st.lists(st.integers(1, 60), min_size=1, max_size=5))
def test_every_vector_holds_however_it_is_split(vector: dict[str, Any], sizes: list[int]) -> None:
    assert run(vector, sizes)[0] == vector["expect"]


def read_lease(vector: dict[str, Any], sizes: list[int]) -> tuple[dict[str, Any], int | str | None]:
    notices, wire, taken, turn = Notices(), joined(vector["bytes"]), 0, 0
    said: list[list[str]] = []
    known_after: int | str | None = None
    while taken < len(wire):
        part = wire[taken : taken + sizes[turn % len(sizes)]]
        taken, turn = taken + len(part), turn + 1
        before = notices.end
        found = [list(one) for one in notices.receive_data(part)]
        said += found
        if found or notices.end != before:
            known_after = taken
    if vector["eof"]:
        before = notices.end
        notices.receive_data(b"")
        if notices.end != before:
            known_after = "eof"
    return {"notices": said, "end": notices.end}, known_after


@pytest.mark.parametrize("vector", LEASES, ids=lambda vector: str(vector["name"]))
def test_every_vector_of_a_lease_holds_whole_and_byte_by_byte(vector: dict[str, Any]) -> None:
    assert read_lease(vector, [10_000])[0] == vector["expect"]
    assert read_lease(vector, [1]) == (vector["expect"], vector["verdict_after"])


@given(st.sampled_from(LEASES), st.lists(st.integers(1, 20), min_size=1, max_size=5))
def test_every_vector_of_a_lease_holds_however_it_is_split(vector: dict[str, Any], sizes: list[int]) -> None:
    assert read_lease(vector, sizes)[0] == vector["expect"]


@given(st.binary(max_size=80), st.booleans())
def test_any_bytes_give_a_reply_or_an_error_of_ours(data: bytes, plausible: bool) -> None:
    if plausible:
        data = b"\x02\x00" + len(data).to_bytes(2, "big") + data
    reply, taken = ExtendedReply("http.cart.shop"), 0
    while reply.wanted:
        part = data[taken : taken + reply.wanted]
        taken += len(part)
        try:
            reply.receive_data(part)
        except (ConnectError, ProtocolError, AgentUnavailable):
            return
    assert taken <= 4 + 4096


@given(st.lists(st.binary(max_size=40), max_size=10))
def test_any_bytes_on_a_lease_are_bounded_and_raise_nothing(parts: list[bytes]) -> None:
    notices = Notices()
    for part in parts:
        notices.receive_data(part)
        assert len(notices._buffer) <= 3 + 4096


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        ({"deadline": 0}, "more than 0 seconds"),
        ({"deadline": float("nan")}, "more than 0 seconds"),
        ({"traceparent": "00-" + "0" * 32 + "-00f067aa0ba902b7-01"}, "is no traceparent"),
        ({"traceparent": "garbage"}, "is no traceparent"),
        ({"sticky_key": b""}, "1 to 64 bytes"),
        ({"sticky_key": "user-17"}, "a sticky key is bytes, not str; encode it"),
        ({"sticky_key": b"x" * 65}, "hash a longer one"),
        ({"version_pin": ""}, "is no version"),
        ({"version_pin": "-v1"}, "is no version"),
        ({"version_pin": "v" * 64}, "is no version"),
    ],
)
def test_a_wish_that_the_agent_would_reject_is_never_sent(wish: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidArgument, match=said):
        encode_extended_request("http.cart.shop", **wish)


def test_a_service_id_that_cannot_be_is_never_sent() -> None:
    with pytest.raises(InvalidServiceId):
        encode_extended_request("http")


def test_control_characters_of_the_agents_text_are_shown_escaped() -> None:
    text = "red \x1b[31m and \x00 é \u202e".encode()
    body = b"\x15" + len(text).to_bytes(2, "big") + text
    reply = ExtendedReply("http.cart.shop")
    reply.receive_data(b"\x02\x08" + len(body).to_bytes(2, "big"))
    with pytest.raises(ConnectError) as caught:
        reply.receive_data(body)
    assert caught.value.text == "red \\x1b[31m and \\x00 é \\u202e"
    assert str(caught.value).endswith("(the agent: red \\x1b[31m and \\x00 é \\u202e)")
