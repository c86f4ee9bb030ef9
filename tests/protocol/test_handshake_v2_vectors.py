"""`protocol/vectors/handshake-v2.json` holds for the plugin, whole, byte by byte, and however the bytes are split."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from meshless_handshake_v2 import ClientHandshake, ClientLease, Established, Refused, ServerHandshake
from meshless_handshake_v2.states import State

from meshless_core import HandshakeRequest, RemoteProtocolError, ReplyCode, ReplyDetails, ServiceId

PROTOCOL = Path(__file__).parents[2] / "protocol"
VECTORS: dict[str, Any] = json.loads((PROTOCOL / "vectors" / "handshake-v2.json").read_text("utf-8"))
SERVER: list[dict[str, Any]] = VECTORS["server"]
REPLIES: list[dict[str, Any]] = VECTORS["replies"]
CLIENT: list[dict[str, Any]] = VECTORS["client"]
NOTICES: list[dict[str, Any]] = VECTORS["notices"]
LEASES: list[dict[str, Any]] = VECTORS["leases"]
FIELDS = {
    "server": {"name", "request", "eof", "expect", "verdict_after"},
    "replies": {"name", "code", "text", "details", "reply"},
    "client": {"name", "service_id", "wishes", "request", "reply", "eof", "expect", "verdict_after"},
    "notices": {"name", "kind", "text", "bytes"},
    "leases": {"name", "bytes", "eof", "expect", "verdict_after"},
}
Verdict = tuple[dict[str, Any], int | str | None]


def joined(parts: list[str]) -> bytes:
    return b"".join(map(bytes.fromhex, parts))


def whole(data: bytes) -> list[bytes]:
    return [data] if data else []


def byte_by_byte(data: bytes) -> list[bytes]:
    return [data[index : index + 1] for index in range(len(data))]


def splits(data: bytes) -> st.SearchStrategy[list[bytes]]:
    cuts = st.sets(st.integers(1, max(1, len(data) - 1)), max_size=40).map(sorted)
    return cuts.map(lambda at: [part for part in map(data.__getitem__, map(slice, [0, *at], [*at, len(data)])) if part])


def wishes_of(request: HandshakeRequest) -> dict[str, Any]:
    wishes: dict[str, Any] = {}
    if request.timeout is not None:
        wishes["deadline_ms"] = round(request.timeout * 1000)
    if request.traceparent is not None:
        wishes["traceparent"] = request.traceparent
    if request.sticky_key is not None:
        wishes["sticky_key"] = request.sticky_key.hex()
    if request.version_pin is not None:
        wishes["version_pin"] = request.version_pin
    if request.accepts_descriptor:
        wishes["accepts_descriptor"] = True
    return wishes


def request_of(vector: dict[str, Any]) -> HandshakeRequest:
    wishes = vector["wishes"]
    assert wishes.keys() <= {"deadline_ms", "traceparent", "sticky_key", "version_pin", "accepts_descriptor"}
    return HandshakeRequest(
        ServiceId.parse(vector["service_id"]),
        sticky_key=bytes.fromhex(wishes["sticky_key"]) if "sticky_key" in wishes else None,
        version_pin=wishes.get("version_pin"),
        timeout=wishes["deadline_ms"] / 1000 if "deadline_ms" in wishes else None,
        traceparent=wishes.get("traceparent"),
        accepts_descriptor=wishes.get("accepts_descriptor", False),
    )


def details_of(answer: Established | Refused) -> dict[str, Any]:
    details: dict[str, Any] = {}
    if answer.connection_id is not None:
        details["connection_id"] = answer.connection_id.hex()
    if answer.version is not None:
        details["version"] = answer.version
    if answer.endpoint:
        details["endpoint"] = answer.endpoint
    if answer.retry_after is not None:
        details["retry_after_ms"] = round(answer.retry_after * 1000)
    if isinstance(answer, Established) and answer.descriptor_follows:
        details["descriptor_follows"] = True
    return details


def run_server(parts: list[bytes], eof: bool) -> Verdict:
    """Feed until the verdict; what is left of `parts` then is what the caller would read itself."""
    server = ServerHandshake()
    fed = 0
    for index, part in enumerate([*parts, b""] if eof else parts):
        after: int | str = "eof" if not part else fed + len(part)
        fed += len(part)
        try:
            request = server.receive_data(part)
        except RemoteProtocolError as error:
            return {"event": "error", "code": error.code, "text": str(error)}, after
        if request is not None:
            trailing = server.trailing_data + b"".join(parts[index + 1 :])
            return {
                "event": "request",
                "service_id": str(request.service_id),
                "wishes": wishes_of(request),
                "trailing": trailing.hex(),
            }, after
    return {"event": "incomplete"}, None


def agrees(found: dict[str, Any], expected: dict[str, Any]) -> bool:
    if expected["event"] == "error":
        assert expected["names"] in found.pop("text", "")
        expected = {"event": "error", "code": expected["code"]}
    return found == expected


def run_client(vector: dict[str, Any], parts: list[bytes]) -> Verdict:
    client = ClientHandshake(request_of(vector))
    fed = 0
    for index, part in enumerate([*parts, b""] if vector["eof"] else parts):
        after: int | str = "eof" if not part else fed + len(part)
        fed += len(part)
        assert client.wanted > 0
        try:
            answer = client.receive_data(part)
        except RemoteProtocolError:
            assert client.state is State.BROKEN
            return {"event": "protocol_error" if part else "closed"}, after
        match answer:
            case Established():
                trailing = (client.trailing_data + b"".join(parts[index + 1 :])).hex()
                event = {"event": "established", "details": details_of(answer), "text": answer.text, "trailing": trailing}
                return event, after
            case Refused():
                refusal = {"event": "refused", "code": int(answer.code), "details": details_of(answer), "text": answer.text}
                return {**refusal, "version": answer.form}, after
    return {"event": "incomplete"}, None


ENDS = {
    State.LEASED: "open",
    State.REVOKED: "revoked",
    State.RELEASED: "released",
    State.BROKEN: "protocol_error",
}


def run_lease(parts: list[bytes], eof: bool) -> Verdict:
    lease = ClientLease()
    notices: list[list[str]] = []
    fed, after = 0, None
    for part in [*parts, b""] if eof else parts:
        before = (lease.state, len(notices))
        fed += len(part)
        notices += [[notice.kind, notice.text] for notice in lease.receive_data(part)]
        if (lease.state, len(notices)) != before:
            after = fed if part else "eof"
    assert bool(lease.error) is (lease.state is State.BROKEN)
    return {"notices": notices, "end": ENDS[lease.state]}, after


def ids(vector: dict[str, Any]) -> str:
    return str(vector["name"])


@pytest.mark.parametrize("section", FIELDS)
def test_vectors_have_names_of_their_own_and_no_field_that_is_not_documented(section: str) -> None:
    assert all(set(vector) == FIELDS[section] for vector in VECTORS[section])
    names = [vector["name"] for vector in VECTORS[section]]
    assert len(set(names)) == len(names)


def test_every_code_occurs_on_both_sides() -> None:
    every = {code.value for code in ReplyCode}
    assert {vector["code"] for vector in REPLIES} == every
    assert {vector["expect"].get("code", 0) for vector in CLIENT} >= every


@pytest.mark.parametrize("vector", SERVER, ids=ids)
def test_server_gives_the_expected_verdict_on_the_whole_request(vector: dict[str, Any]) -> None:
    assert agrees(run_server(whole(joined(vector["request"])), vector["eof"])[0], vector["expect"])


@pytest.mark.parametrize("vector", SERVER, ids=ids)
def test_server_gives_the_expected_verdict_byte_by_byte_and_not_a_byte_later(vector: dict[str, Any]) -> None:
    found, after = run_server(byte_by_byte(joined(vector["request"])), vector["eof"])
    assert agrees(found, vector["expect"])
    assert after == vector["verdict_after"]


@given(st.data(), st.sampled_from(SERVER))
def test_server_gives_the_expected_verdict_however_the_request_is_split(data: st.DataObject, vector: dict[str, Any]) -> None:
    found, _ = run_server(data.draw(splits(joined(vector["request"]))), vector["eof"])
    assert agrees(found, vector["expect"])


@pytest.mark.parametrize("vector", REPLIES, ids=ids)
def test_server_sends_the_expected_reply(vector: dict[str, Any]) -> None:
    server = ServerHandshake()
    assert server.receive_data(joined(next(v for v in SERVER if v["name"] == "all wishes")["request"])) is not None
    details = None
    if (given_details := vector["details"]) is not None:
        details = ReplyDetails(
            connection_id=bytes.fromhex(given_details["connection_id"]),
            version=given_details.get("version"),
            endpoint=given_details.get("endpoint", ""),
            retry_after=given_details["retry_after_ms"] / 1000 if "retry_after_ms" in given_details else None,
            descriptor_follows=given_details.get("descriptor_follows", False),
        )
    assert server.reply(ReplyCode(vector["code"]), vector["text"], details) == joined(vector["reply"])


@pytest.mark.parametrize("vector", CLIENT, ids=ids)
def test_client_sends_the_expected_request(vector: dict[str, Any]) -> None:
    assert ClientHandshake(request_of(vector)).request == joined(vector["request"])


@pytest.mark.parametrize("vector", CLIENT, ids=ids)
def test_client_gives_the_expected_verdict_on_the_whole_reply(vector: dict[str, Any]) -> None:
    assert run_client(vector, whole(joined(vector["reply"])))[0] == vector["expect"]


@pytest.mark.parametrize("vector", CLIENT, ids=ids)
def test_client_gives_the_expected_verdict_byte_by_byte_and_not_a_byte_later(vector: dict[str, Any]) -> None:
    assert run_client(vector, byte_by_byte(joined(vector["reply"]))) == (vector["expect"], vector["verdict_after"])


@given(st.data(), st.sampled_from(CLIENT))
def test_client_gives_the_expected_verdict_however_the_reply_is_split(data: st.DataObject, vector: dict[str, Any]) -> None:
    assert run_client(vector, data.draw(splits(joined(vector["reply"]))))[0] == vector["expect"]


@pytest.mark.parametrize("vector", NOTICES, ids=ids)
def test_server_says_the_expected_notice_and_the_client_understands_it(vector: dict[str, Any]) -> None:
    server = ServerHandshake()
    assert server.receive_data(joined(next(v for v in SERVER if v["name"] == "all wishes")["request"])) is not None
    server.reply(ReplyCode.OK, "", ReplyDetails(connection_id=bytes(16), descriptor_follows=True))
    data = server.notice(vector["kind"], vector["text"])
    assert data == joined(vector["bytes"])
    (notice,) = ClientLease().receive_data(data)
    assert notice.kind == vector["kind"]
    assert vector["text"].startswith(notice.text)


@pytest.mark.parametrize("vector", LEASES, ids=ids)
def test_client_reads_a_lease_whole(vector: dict[str, Any]) -> None:
    assert run_lease(whole(joined(vector["bytes"])), vector["eof"])[0] == vector["expect"]


@pytest.mark.parametrize("vector", LEASES, ids=ids)
def test_client_reads_a_lease_byte_by_byte_and_knows_not_a_byte_later(vector: dict[str, Any]) -> None:
    assert run_lease(byte_by_byte(joined(vector["bytes"])), vector["eof"]) == (vector["expect"], vector["verdict_after"])


@given(st.data(), st.sampled_from(LEASES))
def test_client_reads_a_lease_however_it_is_split(data: st.DataObject, vector: dict[str, Any]) -> None:
    assert run_lease(data.draw(splits(joined(vector["bytes"]))), vector["eof"])[0] == vector["expect"]


def test_what_a_server_accepts_a_client_would_send_in_the_same_bytes_if_it_is_canonical() -> None:
    canonical = {joined(vector["request"]) for vector in CLIENT}
    for data in canonical:
        server = ServerHandshake()
        request = server.receive_data(data)
        assert request is not None
        assert ClientHandshake(request).request == data


def test_the_specifications_examples_are_what_they_say() -> None:
    text = (PROTOCOL / "handshake-v2.md").read_text("utf-8")
    asked, yes, limited = (
        "02 0016 0e 687474702e636172742e73686f70 01 0004 000001f4",
        "02 00 0000",
        "02 06 0007 14 0004 000003e8",
    )
    assert all(f"`{example}`" in text for example in (asked, yes, limited))
    assert ServerHandshake().receive_data(bytes.fromhex(asked)) == HandshakeRequest(
        ServiceId("http", "cart", "shop"), timeout=0.5
    )
    request = HandshakeRequest(ServiceId("http", "cart", "shop"))
    assert ClientHandshake(request).receive_data(bytes.fromhex(yes)) == Established()
    answer = ClientHandshake(request).receive_data(bytes.fromhex(limited))
    assert answer == Refused(code=ReplyCode.CONNECTION_LIMIT, retry_after=1.0)
