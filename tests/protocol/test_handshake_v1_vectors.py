"""`protocol/vectors/handshake-v1.json` holds for the core, whole, byte by byte, and however the bytes are split."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshless_core.errors import RemoteProtocolError
from meshless_core.handshake import ClientHandshake, Established, Refused, ServerHandshake
from meshless_core.handshake.states import State
from meshless_core.types import ReplyCode, ServiceId

FILE = Path(__file__).parents[2] / "protocol" / "vectors" / "handshake-v1.json"
VECTORS: dict[str, Any] = json.loads(FILE.read_text("utf-8"))
SERVER: list[dict[str, Any]] = VECTORS["server"]
CLIENT: list[dict[str, Any]] = VECTORS["client"]


def joined(fields: list[str]) -> bytes:
    return b"".join(map(bytes.fromhex, fields))


def byte_by_byte(data: bytes) -> list[bytes]:
    return [data[index : index + 1] for index in range(len(data))]


def splits(data: bytes) -> st.SearchStrategy[list[bytes]]:
    cuts = st.sets(st.integers(1, max(1, len(data) - 1))).map(sorted)
    return cuts.map(lambda at: [part for part in map(data.__getitem__, map(slice, [0, *at], [*at, len(data)])) if part])


def run_server(parts: list[bytes], eof: bool) -> tuple[dict[str, Any], ServerHandshake, int | str | None]:
    """Feed until the verdict; what is left of `parts` then is what the caller would read itself."""
    server = ServerHandshake()
    fed = 0
    for index, part in enumerate([*parts, b""] if eof else parts):
        after: int | str = "eof" if not part else fed + len(part)
        fed += len(part)
        try:
            request = server.receive_data(part)
        except RemoteProtocolError as error:
            return {"event": "error", "code": error.code}, server, after
        if request is not None:
            rest = b"".join(parts[index + 1 :])
            trailing = (server.trailing_data + rest).hex()
            return {"event": "request", "service_id": str(request.service_id), "trailing": trailing}, server, after
    return {"event": "incomplete"}, server, None


def run_client(service_id: str, parts: list[bytes], eof: bool) -> tuple[dict[str, Any], int | str | None]:
    client = ClientHandshake(ServiceId.parse(service_id))
    fed = 0
    for index, part in enumerate([*parts, b""] if eof else parts):
        after: int | str = "eof" if not part else fed + len(part)
        fed += len(part)
        try:
            event = client.receive_data(part)
        except RemoteProtocolError:
            return {"event": "protocol_error" if part else "closed"}, after
        match event:
            case Established():
                rest = b"".join(parts[index + 1 :])
                return {"event": "established", "trailing": (client.trailing_data + rest).hex()}, after
            case Refused(code):
                return {"event": "refused", "code": int(code), "name": event.name}, after
    return {"event": "incomplete"}, None


def ids(vector: dict[str, Any]) -> str:
    return str(vector["name"])


def test_the_file_lists_every_reply_code_with_its_name_and_whether_it_is_retryable() -> None:
    assert VECTORS["codes"] == [{"code": c.value, "name": c.name, "retryable": c.retryable} for c in ReplyCode]


def test_every_reply_code_occurs_on_both_sides() -> None:
    replied = {bytes.fromhex(vector["reply"])[1] for vector in SERVER}
    received = {vector["expect"]["code"] for vector in CLIENT if vector["expect"]["event"] == "refused"}
    assert replied == {code.value for code in ReplyCode}
    assert received >= {code.value for code in ReplyCode if code}


@pytest.mark.parametrize("section", ["server", "client"])
def test_vectors_have_names_of_their_own_and_no_field_that_is_not_documented(section: str) -> None:
    fields = {"name", "request", "eof", "expect", "verdict_after", "reply"} | ({"service_id"} if section == "client" else set())
    assert all(set(vector) == fields for vector in VECTORS[section])
    names = [vector["name"] for vector in VECTORS[section]]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("vector", SERVER, ids=ids)
def test_server_gives_the_expected_verdict_on_the_whole_request(vector: dict[str, Any]) -> None:
    data = joined(vector["request"])
    found, server, _ = run_server([data] if data else [], vector["eof"])
    assert found == vector["expect"]
    assert server.reply(ReplyCode(bytes.fromhex(vector["reply"])[1])) == bytes.fromhex(vector["reply"])


@pytest.mark.parametrize("vector", SERVER, ids=ids)
def test_server_gives_the_expected_verdict_byte_by_byte_and_not_a_byte_later(vector: dict[str, Any]) -> None:
    found, server, after = run_server(byte_by_byte(joined(vector["request"])), vector["eof"])
    assert (found, after) == (vector["expect"], vector["verdict_after"])
    assert server.reply(ReplyCode(bytes.fromhex(vector["reply"])[1])) == bytes.fromhex(vector["reply"])


@given(st.data(), st.sampled_from(SERVER))
def test_server_gives_the_expected_verdict_however_the_request_is_split(data: st.DataObject, vector: dict[str, Any]) -> None:
    found, _, _ = run_server(data.draw(splits(joined(vector["request"]))), vector["eof"])
    assert found == vector["expect"]


@pytest.mark.parametrize("vector", CLIENT, ids=ids)
def test_client_sends_the_expected_request(vector: dict[str, Any]) -> None:
    assert ClientHandshake(ServiceId.parse(vector["service_id"])).request == joined(vector["request"])


@pytest.mark.parametrize("vector", CLIENT, ids=ids)
def test_client_gives_the_expected_verdict_on_the_whole_reply(vector: dict[str, Any]) -> None:
    data = joined(vector["reply"])
    assert run_client(vector["service_id"], [data] if data else [], vector["eof"])[0] == vector["expect"]


@pytest.mark.parametrize("vector", CLIENT, ids=ids)
def test_client_gives_the_expected_verdict_byte_by_byte_and_not_a_byte_later(vector: dict[str, Any]) -> None:
    parts = byte_by_byte(joined(vector["reply"]))
    assert run_client(vector["service_id"], parts, vector["eof"]) == (vector["expect"], vector["verdict_after"])


@given(st.data(), st.sampled_from(CLIENT))
def test_client_gives_the_expected_verdict_however_the_reply_is_split(data: st.DataObject, vector: dict[str, Any]) -> None:
    parts = data.draw(splits(joined(vector["reply"])))
    assert run_client(vector["service_id"], parts, vector["eof"])[0] == vector["expect"]


def test_the_two_sides_of_the_core_understand_each_other() -> None:
    for code in ReplyCode:
        client, server = ClientHandshake(ServiceId.parse("http.cart.shop")), ServerHandshake()
        request = server.receive_data(client.request)
        assert request is not None
        assert request.service_id == ServiceId("http", "cart", "shop")
        event = client.receive_data(server.reply(code))
        assert event == (Established() if code is ReplyCode.OK else Refused(code))
        assert client.state is server.state
        assert server.state in {State.ESTABLISHED, State.REFUSED}
